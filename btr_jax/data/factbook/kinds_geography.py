"""Questions about land, water and air; `fields` explains the format."""

TABLE = """\
area_total | Area | total | quantity
  What is the total area of {c}?
  How large is the total area of {c}?
  How many sq km is the total area of {c}?
area_land | Area | land | quantity
  What is the land area of {c}?
  How much of the area of {c} is land?
  How big is the land area of {c}, without water?
area_water | Area | water | quantity
  What is the area of water in {c}?
  How much of the area of {c} is water?
  How large is the water area of {c}?
coordinates | Geographic coordinates | | coordinates
  What are the geographic coordinates of {c}?
  At which geographic coordinates does {c} lie?
  Give the geographic coordinates of {c}.
map_region | Map references | | phrase
  Which map reference covers {c}?
  Under which map references is {c} found?
  What is the map reference for {c}?
border_length | Land boundaries | total | quantity
  What is the total length of the land boundaries of {c}?
  How long are the land boundaries of {c} in total?
  What do the land boundaries of {c} measure in total?
coastline | Coastline | | quantity
  How long is the coastline of {c}?
  What is the length of the coastline of {c}?
  How many km of coastline does {c} have?
territorial_sea | Maritime claims | territorial sea | quantity
  How wide is the territorial sea that {c} claims?
  What territorial sea does {c} claim?
  How far does the territorial sea of {c} reach according to its maritime
      claims?
economic_zone | Maritime claims | exclusive economic zone | quantity
  How wide is the exclusive economic zone of {c}?
  What exclusive economic zone does {c} claim?
  How far does the exclusive economic zone of {c} extend?
highest_point | Elevation | highest point | summit_name
  What is the highest point of {c}?
  Which place is the highest point in {c}?
  What is the highest point in {c} called?
highest_elevation | Elevation | highest point | summit_height
  How high is the highest point of {c}?
  What is the elevation of the highest point in {c}?
  How many meters high is the highest point of {c}?
lowest_point | Elevation | lowest point | summit_name
  What is the lowest point of {c}?
  Which place is the lowest point in {c}?
  What is the lowest point in {c} called?
mean_elevation | Elevation | mean elevation | quantity
  What is the mean elevation of {c}?
  How high is the mean elevation of {c}?
  What mean elevation does {c} have?
agricultural_land | Land use | agricultural land | quantity
  What share of the land use in {c} is agricultural land?
  What percentage of {c} is agricultural land?
  How much of the land of {c} is in agricultural use?
arable_land | Land use | arable land | quantity
  What percentage of {c} is arable land?
  How much of the land in {c} is arable?
  What share of land use in {c} is arable land?
forest | Land use | forest | quantity
  What percentage of the land of {c} is forest?
  How much of the land use in {c} is forest?
  What share of the land in {c} is covered by forest?
irrigated_land | Irrigated land | | quantity
  How much irrigated land is there in {c}?
  What is the area of irrigated land in {c}?
  How many sq km of land are irrigated in {c}?
co2_emissions | Carbon dioxide emissions | total emissions | number
  What are the total carbon dioxide emissions of {c} in metric tonnes?
  How many metric tonnes of carbon dioxide emissions does {c} have in total?
  How large are total emissions of carbon dioxide in {c} in metric tonnes?
particulate_matter | Particulate matter emissions | | number
  What are the particulate matter emissions of {c} in micrograms per cubic
      meter?
  How high are particulate matter emissions in {c} in micrograms per cubic
      meter?
  How many micrograms per cubic meter are the particulate matter emissions in
      {c}?
municipal_waste | Waste and recycling | municipal solid waste generated
      annually | quantity
  How much municipal solid waste is generated annually in {c}?
  What amount of municipal solid waste does {c} generate annually?
  How large is the municipal solid waste generated annually by {c}?
renewable_water | Total renewable water resources | | quantity
  What are the total renewable water resources of {c}?
  How large are the total renewable water resources of {c}?
  How much renewable water resources does {c} have in total?
"""
