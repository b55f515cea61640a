"""Questions about money and trade; `fields` explains the format."""

TABLE = """\
real_gdp | Real GDP (purchasing power parity) | <year> | quantity
  What was the real GDP of {c} at purchasing power parity in {year}?
  How large was the real GDP of {c} by purchasing power parity in {year}?
  In {year}, what was the real GDP (purchasing power parity) of {c}?
gdp_growth | Real GDP growth rate | <year> | quantity
  What was the real GDP growth rate of {c} in {year}?
  What rate of growth did the real GDP of {c} have in {year}?
  In {year}, how high was the growth rate of real GDP in {c}?
gdp_per_capita | Real GDP per capita | <year> | quantity
  What was the real GDP per capita of {c} in {year}?
  How large was real GDP per capita in {c} in {year}?
  In {year}, what real GDP per capita did {c} have?
gdp_exchange | GDP (official exchange rate) | | quantity
  What is the GDP of {c} at the official exchange rate?
  How large is the GDP of {c} by the official exchange rate?
  At the official exchange rate, what is the GDP of {c}?
inflation | Inflation rate (consumer prices) | <year> | quantity
  What was the inflation rate of consumer prices in {c} in {year}?
  How high was inflation of consumer prices in {c} in {year}?
  In {year}, what inflation rate did consumer prices have in {c}?
gdp_agriculture | GDP - composition, by sector of origin | agriculture |
      quantity
  What share of the GDP composition of {c} is agriculture, by sector of origin?
  By sector of origin, how much of the GDP of {c} is agriculture?
  What percentage of the GDP of {c} comes from the agriculture sector of origin?
gdp_industry | GDP - composition, by sector of origin | industry | quantity
  What share of the GDP composition of {c} is industry, by sector of origin?
  By sector of origin, how much of the GDP of {c} is industry?
  What percentage of the GDP of {c} comes from the industry sector of origin?
gdp_services | GDP - composition, by sector of origin | services | quantity
  What share of the GDP composition of {c} is services, by sector of origin?
  By sector of origin, how much of the GDP of {c} is services?
  What percentage of the GDP of {c} comes from the services sector of origin?
industrial_growth | Industrial production growth rate | | quantity
  What is the industrial production growth rate of {c}?
  What rate of growth does industrial production in {c} have?
  How high is the growth rate of industrial production in {c}?
labor_force | Labor force | | quantity
  How large is the labor force of {c}?
  What is the size of the labor force in {c}?
  How many people are in the labor force of {c}?
unemployment | Unemployment rate | <year> | quantity
  What was the unemployment rate in {c} in {year}?
  How high was the unemployment rate of {c} in {year}?
  In {year}, what unemployment rate did {c} have?
poverty | Population below poverty line | | quantity
  What percentage of the population of {c} lives below the poverty line?
  How much of the population in {c} is below the poverty line?
  What share of the population of {c} is below the poverty line?
remittances | Remittances | <year> | quantity
  What were the remittances to {c} in {year} as a share of GDP?
  How high were remittances in {c} in {year} as a percentage of GDP?
  In {year}, what part of the GDP of {c} were remittances?
budget_revenues | Budget | revenues | quantity
  What are the budget revenues of {c}?
  How large are the revenues in the budget of {c}?
  What revenues does the budget of {c} have?
budget_expenditures | Budget | expenditures | quantity
  What are the budget expenditures of {c}?
  How large are the expenditures in the budget of {c}?
  What expenditures does the budget of {c} have?
taxes | Taxes and other revenues | | quantity
  What are taxes and other revenues in {c} as a share of GDP?
  How high are taxes and other revenues of {c} as a percentage of GDP?
  What part of the GDP of {c} are taxes and other revenues?
exports | Exports | <year> | quantity
  What were the exports of {c} worth in {year}?
  How large were the exports of {c} in {year}?
  In {year}, what was the value of the exports of {c}?
export_partner | Exports - partners | | leading_share_name
  Who is the largest of the export partners of {c}?
  Which of its partners receives the most exports from {c}?
  What is the main partner for the exports of {c}?
export_partner_share | Exports - partners | | leading_share
  What share of the exports of {c} goes to the largest of its partners?
  What percentage of exports does the top export partner of {c} take?
  How much of the exports of {c} goes to the first of its partners?
export_commodity | Exports - commodities | | name
  What is the first of the export commodities of {c}?
  Which commodity leads the exports of {c}?
  What is the top commodity among the exports of {c}?
imports | Imports | <year> | quantity
  What were the imports of {c} worth in {year}?
  How large were the imports of {c} in {year}?
  In {year}, what was the value of the imports of {c}?
import_partner | Imports - partners | | leading_share_name
  Who is the largest of the import partners of {c}?
  Which of its partners sends the most imports to {c}?
  What is the main partner for the imports of {c}?
import_commodity | Imports - commodities | | name
  What is the first of the import commodities of {c}?
  Which commodity leads the imports of {c}?
  What is the top commodity among the imports of {c}?
reserves | Reserves of foreign exchange and gold | <year> | quantity
  What were the reserves of foreign exchange and gold of {c} in {year}?
  How large were the foreign exchange and gold reserves of {c} in {year}?
  In {year}, what reserves of foreign exchange and gold did {c} hold?
currency | Exchange rates | Currency | currency
  What is the currency of {c}?
  Which currency is used in {c}?
  In which currency are exchange rates of {c} given?
"""
