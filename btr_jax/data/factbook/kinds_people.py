"""Questions about people; `fields` explains the format."""

TABLE = """\
population | Population | total | quantity
  What is the total population of {c}?
  How large is the population of {c} in total?
  What total population does {c} have?
population_female | Population | female | quantity
  How large is the female population of {c}?
  What is the female population of {c}?
  How many people of the population of {c} are female?
demonym | Nationality | noun | demonym
  What noun names the nationality of {c}?
  What is the noun for people of the nationality of {c}?
  Which noun is used for somebody with the nationality of {c}?
demonym_adjective | Nationality | adjective | demonym
  What is the adjective for the nationality of {c}?
  Which adjective describes the nationality of {c}?
  What nationality adjective belongs to {c}?
largest_ethnic_group | Ethnic groups | | leading_share_name
  What is the largest ethnic group in {c}?
  Which of the ethnic groups of {c} is the largest?
  To which ethnic group do most people in {c} belong?
largest_religion | Religions | | leading_share_name
  What is the largest religion in {c}?
  Which of the religions of {c} has the most followers?
  Which religion do most people in {c} follow?
median_age | Median age | total | quantity
  What is the median age in {c}?
  What is the median age of the total population of {c}?
  What is the total median age of people in {c}?
population_growth | Population growth rate | | quantity
  What is the population growth rate of {c}?
  At what rate does the population of {c} grow?
  How high is the growth rate of the population in {c}?
birth_rate | Birth rate | | number
  What is the birth rate in {c} per 1,000 population?
  How many births per 1,000 population are there in {c}?
  How high is the birth rate of {c} per 1,000 population?
death_rate | Death rate | | number
  What is the death rate in {c} per 1,000 population?
  How many deaths per 1,000 population are there in {c}?
  How high is the death rate of {c} per 1,000 population?
net_migration | Net migration rate | | number
  What is the net migration rate of {c} per 1,000 population?
  How high is the net migration rate in {c} per 1,000 population?
  What net migration rate per 1,000 population does {c} have?
urban_population | Urbanization | urban population | quantity
  What percentage of the population of {c} is urban?
  What share of the total population of {c} is urban population?
  How large is the urban population in {c} as a percentage?
largest_city | Major urban areas - population | | city_name
  Which of the major urban areas of {c} has the largest population?
  What is the most populous of the major urban areas in {c}?
  What is the largest urban area of {c} by population?
largest_city_population | Major urban areas - population | | city_population
  What is the population of the largest of the major urban areas of {c}?
  How large is the population of the most populous major urban area in {c}?
  How many people live in the largest major urban area of {c} by population?
sex_ratio | Sex ratio | total population | number
  What is the sex ratio of the total population of {c} in males per female?
  How many males per female are there in the total population of {c}?
  What is the overall sex ratio in {c}, males per female, total population?
mother_age | Mother's mean age at first birth | | quantity
  What is a mother's mean age at first birth in {c}?
  At what mean age do mothers in {c} have their first birth?
  How old is the mean mother in {c} at her first birth?
maternal_mortality | Maternal mortality ratio | | number
  What is the maternal mortality ratio in {c} per 100,000 live births?
  How high is the maternal mortality ratio of {c} per 100,000 live births?
  By the maternal mortality ratio, how many mothers die per 100,000 live births
      in {c}?
infant_mortality | Infant mortality rate | total | number
  What is the total infant mortality rate in {c} per 1,000 live births?
  By the total infant mortality rate, how many infants die per 1,000 live births
      in {c}?
  How high is the total infant mortality rate of {c} per 1,000 live births?
life_expectancy | Life expectancy at birth | total population | quantity
  What is the life expectancy at birth of the total population of {c}?
  How long is the life expectancy at birth in {c} for the total population?
  What life expectancy at birth does the total population of {c} have?
life_expectancy_male | Life expectancy at birth | male | quantity
  What is the male life expectancy at birth in {c}?
  How long is the life expectancy at birth of a male in {c}?
  What life expectancy at birth does a male baby have in {c}?
life_expectancy_female | Life expectancy at birth | female | quantity
  What is the female life expectancy at birth in {c}?
  How long is the life expectancy at birth of a female in {c}?
  What life expectancy at birth does a female baby have in {c}?
fertility | Total fertility rate | | number
  What is the total fertility rate of {c} in children born per woman?
  How many children are born per woman in {c} by the total fertility rate?
  How high is the total fertility rate in {c}, children born per woman?
drinking_water | Drinking water source | improved, total | quantity
  What percentage of the total population of {c} has an improved drinking water
      source?
  How much of the total population in {c} has an improved source of drinking
      water?
  What is the total share of the population of {c} with an improved drinking
      water source?
health_expenditure | Health expenditure | as % of GDP | quantity
  What is the health expenditure of {c} as a percentage of GDP?
  How much of its GDP is the health expenditure of {c}?
  What share of GDP is spent as health expenditure in {c}?
physicians | Physician density | | number
  What is the physician density in {c} per 1,000 population?
  How many physicians per 1,000 population does {c} have?
  How high is the density of physicians in {c} per 1,000 population?
hospital_beds | Hospital bed density | | number
  What is the hospital bed density in {c} per 1,000 population?
  How many hospital beds per 1,000 population does {c} have?
  How high is the density of hospital beds in {c} per 1,000 population?
obesity | Obesity - adult prevalence rate | | quantity
  What is the adult obesity prevalence rate in {c}?
  How high is the prevalence rate of obesity among adults in {c}?
  What is the adult prevalence of obesity in {c}?
alcohol | Alcohol consumption per capita | total | quantity
  What is the total alcohol consumption per capita in {c}?
  How much alcohol is consumed per capita in {c} in total?
  How high is total alcohol consumption per capita in {c}?
tobacco | Tobacco use | total | quantity
  What is the total rate of tobacco use in {c}?
  What total share of people in {c} use tobacco?
  How high is total tobacco use in {c}?
education_expenditure | Education expenditure | % GDP | quantity
  What is the education expenditure of {c} as a percentage of GDP?
  How much of its GDP is the education expenditure of {c}?
  What share of GDP is spent as education expenditure in {c}?
literacy | Literacy | total population | quantity
  What is the literacy rate of the total population of {c}?
  How high is literacy in the total population of {c}?
  What percentage of the total population of {c} has literacy?
"""
