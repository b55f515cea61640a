"""Questions about the state; `fields` explains the format."""

TABLE = """\
long_name | Country name | conventional long form | phrase
  What is the conventional long form of the country name of {c}?
  What is the long form of the country name {c}?
  What is the country name of {c} in its conventional long form?
government_type | Government type | | phrase
  What type of government does {c} have?
  What is the government type of {c}?
  By which type of government is {c} ruled?
capital | Capital | name | single_name
  What is the capital of {c}?
  What is the name of the capital of {c}?
  Which city is the capital of {c}?
time_zone | Capital | time difference | time_zone
  What is the time difference of the capital of {c} to UTC?
  Which UTC time difference does the capital of {c} have?
  How large is the time difference from UTC in the capital of {c}?
independence | Independence | | date
  When did {c} gain independence?
  What is the date of independence of {c}?
  On which date did independence come to {c}?
national_holiday | National holiday | | before_comma
  What is the national holiday of {c}?
  What is the national holiday of {c} called?
  Which national holiday does {c} celebrate?
national_holiday_date | National holiday | | only_date
  When is the national holiday of {c}?
  On what date is the national holiday of {c}?
  Which day is the national holiday in {c}?
birthright_citizenship | Citizenship | by birth | yes_or_no
  Is there citizenship by birth in {c}?
  Does {c} grant citizenship by birth?
  Can one get the citizenship of {c} by birth there?
dual_citizenship | Citizenship | dual citizenship recognized | yes_or_no
  Is dual citizenship recognized in {c}?
  Does {c} have dual citizenship recognized?
  Is dual citizenship recognized by {c}?
naturalization | Citizenship | residency requirement for naturalization |
      quantity
  What is the residency requirement for naturalization in {c}?
  How long is the residency requirement for naturalization in {c}?
  What residency does {c} require for naturalization?
suffrage | Suffrage | | quantity
  From what age is there suffrage in {c}?
  At what age do people in {c} have suffrage?
  What is the age of suffrage in {c}?
chief_of_state | Executive branch | chief of state | office_holder
  Who is the chief of state of {c}?
  Who is chief of state in {c}?
  What is the name of the chief of state of {c}?
head_of_government | Executive branch | head of government | office_holder
  Who is the head of government of {c}?
  Who is head of government in {c}?
  What is the name of the head of government of {c}?
legislature | Legislative branch | legislature name | phrase
  What is the name of the legislature of {c}?
  What is the legislature of {c} called?
  What name does the legislature in {c} have?
legislature_structure | Legislative branch | legislative structure | phrase
  What legislative structure does {c} have?
  What is the legislative structure of {c}?
  Is the legislative structure of {c} unicameral or bicameral?
seats | Legislative branch | number of seats | count
  What is the number of seats in the legislature of {c}?
  How many seats does the legislative branch of {c} have?
  What is the number of seats in the legislative branch of {c}?
lower_chamber | Legislative branch - lower chamber | chamber name | phrase
  What is the name of the lower chamber in {c}?
  What is the lower chamber of the legislative branch of {c} called?
  Which name does the lower chamber of {c} have?
upper_chamber | Legislative branch - upper chamber | chamber name | phrase
  What is the name of the upper chamber in {c}?
  What is the upper chamber of the legislative branch of {c} called?
  Which name does the upper chamber of {c} have?
national_colors | National color(s) | | phrase
  What are the national colors of {c}?
  Which national colors does {c} have?
  Name the national colors of {c}.
national_symbol | National symbol(s) | | single_name
  What is the national symbol of {c}?
  Which national symbol does {c} have?
  What is used as the national symbol of {c}?
anthem | National anthem(s) | title | quoted
  What is the title of the national anthem of {c}?
  Which title does the national anthem of {c} have?
  What is the national anthem of {c} called by its title?
heritage_sites | National heritage | total World Heritage Sites | count
  How many World Heritage Sites does {c} have in total?
  What is the total number of World Heritage Sites in {c}?
  How many World Heritage Sites in total are there in {c}?
"""
