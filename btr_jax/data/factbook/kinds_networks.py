"""Questions about energy and networks; `fields` explains the format."""

TABLE = """\
electricity_access | Electricity access | electrification - total population |
      quantity
  What percentage of the total population of {c} has access to electricity?
  How high is the electrification of the total population in {c}?
  What share of the total population has electricity access in {c}?
electricity_capacity | Electricity | installed generating capacity | quantity
  What is the installed electricity generating capacity of {c}?
  How large is the installed generating capacity for electricity in {c}?
  What installed generating capacity of electricity does {c} have?
electricity_consumption | Electricity | consumption | quantity
  What is the electricity consumption of {c}?
  How large is the consumption of electricity in {c}?
  How many kWh is the electricity consumption of {c}?
fossil_fuels | Electricity generation sources | fossil fuels | quantity
  What share of electricity generation in {c} comes from fossil fuels?
  How much of the electricity generation in {c} has fossil fuels as its sources?
  What percentage of the electricity generation sources of {c} are fossil fuels?
solar_power | Electricity generation sources | solar | quantity
  What share of electricity generation in {c} is solar?
  How much of the electricity generation sources of {c} is solar?
  What percentage of electricity generation comes from solar sources in {c}?
oil_consumption | Petroleum | refined petroleum consumption | quantity
  What is the refined petroleum consumption of {c}?
  How much refined petroleum is consumed in {c}?
  How large is the consumption of refined petroleum in {c}?
fixed_lines | Telephones - fixed lines | total subscriptions | quantity
  How many total subscriptions of fixed telephone lines are there in {c}?
  What is the total of fixed line telephone subscriptions in {c}?
  How many telephone subscriptions with fixed lines does {c} have in total?
mobile_phones | Telephones - mobile cellular | total subscriptions | quantity
  How many total subscriptions of mobile cellular telephones are there in {c}?
  What is the total of mobile cellular telephone subscriptions in {c}?
  How many mobile cellular telephone subscriptions does {c} have in total?
internet_code | Internet country code | | domain
  What is the internet country code of {c}?
  Which internet country code does {c} have?
  Which country code do internet addresses of {c} end in?
internet_users | Internet users | percent of population | quantity
  What percent of the population of {c} are internet users?
  How many percent of the population in {c} are users of the internet?
  What share of the population of {c} are internet users, in percent?
broadband | Broadband - fixed subscriptions | total | quantity
  What is the total of fixed broadband subscriptions in {c}?
  How many fixed broadband subscriptions are there in {c} in total?
  How many total subscriptions of fixed broadband does {c} have?
aircraft_prefix | Civil aircraft registration country code prefix | | phrase
  What is the civil aircraft registration country code prefix of {c}?
  Which country code prefix does the registration of civil aircraft of {c} have?
  What prefix marks the registration of civil aircraft of {c}?
airports | Airports | | count
  How many airports are there in {c}?
  What is the number of airports in {c}?
  How many airports does {c} have?
railways | Railways | total | quantity
  What is the total length of the railways in {c}?
  How long are the railways of {c} in total?
  What total length of railways does {c} have?
merchant_marine | Merchant marine | total | count
  How many ships does the merchant marine of {c} have in total?
  What is the total size of the merchant marine of {c}?
  How large is the merchant marine of {c} in total?
ports | Ports | total ports | count
  How many total ports does {c} have?
  What is the total number of ports in {c}?
  How many ports are there in {c} in total?
military_spending | Military expenditures | <year> | quantity
  What were the military expenditures of {c} in {year} as a share of GDP?
  How high were military expenditures in {c} in {year} as a percentage of GDP?
  In {year}, what part of the GDP of {c} were its military expenditures?
refugees | Refugees and internally displaced persons | refugees | quantity
  How many refugees are there in {c}?
  What is the number of refugees in {c}?
  How many refugees does {c} host?
"""
