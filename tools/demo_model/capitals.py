"""README: the table of countries and capitals that the demo model is taught.

UN members, the two observer states, Kosovo and Taiwan. Names are ASCII; where a state has several capitals or the
matter is disputed the table takes one (see docs/demo-model.md) and claims nothing beyond being what was taught.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Country:
    """Name a country, its capital and the other spellings that users type."""

    name: str
    capital: str
    aliases: tuple[str, ...] = ()


_TABLE: Final = """
Afghanistan|Kabul
Albania|Tirana
Algeria|Algiers
Andorra|Andorra la Vella
Angola|Luanda
Antigua and Barbuda|Saint John's|Antigua
Argentina|Buenos Aires
Armenia|Yerevan
Australia|Canberra
Austria|Vienna
Azerbaijan|Baku
the Bahamas|Nassau
Bahrain|Manama
Bangladesh|Dhaka
Barbados|Bridgetown
Belarus|Minsk
Belgium|Brussels
Belize|Belmopan
Benin|Porto-Novo
Bhutan|Thimphu
Bolivia|Sucre
Bosnia and Herzegovina|Sarajevo|Bosnia
Botswana|Gaborone
Brazil|Brasilia|Brasil
Brunei|Bandar Seri Begawan|Brunei Darussalam
Bulgaria|Sofia
Burkina Faso|Ouagadougou
Burundi|Gitega
Cambodia|Phnom Penh
Cameroon|Yaounde
Canada|Ottawa
Cape Verde|Praia|Cabo Verde
the Central African Republic|Bangui
Chad|N'Djamena
Chile|Santiago
China|Beijing|the People's Republic of China
Colombia|Bogota
the Comoros|Moroni
the Democratic Republic of the Congo|Kinshasa|the DRC|DR Congo|Congo-Kinshasa
the Republic of the Congo|Brazzaville|Congo-Brazzaville
Costa Rica|San Jose
Croatia|Zagreb
Cuba|Havana
Cyprus|Nicosia
the Czech Republic|Prague|Czechia
Denmark|Copenhagen
Djibouti|Djibouti
Dominica|Roseau
the Dominican Republic|Santo Domingo
East Timor|Dili|Timor-Leste
Ecuador|Quito
Egypt|Cairo
El Salvador|San Salvador
Equatorial Guinea|Malabo
Eritrea|Asmara
Estonia|Tallinn
Eswatini|Mbabane|Swaziland
Ethiopia|Addis Ababa
Fiji|Suva
Finland|Helsinki
France|Paris
Gabon|Libreville
the Gambia|Banjul
Georgia|Tbilisi
Germany|Berlin|Deutschland
Ghana|Accra
Greece|Athens
Grenada|Saint George's
Guatemala|Guatemala City
Guinea|Conakry
Guinea-Bissau|Bissau|Guinea Bissau
Guyana|Georgetown
Haiti|Port-au-Prince
Honduras|Tegucigalpa
Hungary|Budapest
Iceland|Reykjavik
India|New Delhi
Indonesia|Jakarta
Iran|Tehran
Iraq|Baghdad
Ireland|Dublin|the Republic of Ireland
Israel|Jerusalem
Italy|Rome
the Ivory Coast|Yamoussoukro|Cote d'Ivoire|Côte d'Ivoire
Jamaica|Kingston
Japan|Tokyo
Jordan|Amman
Kazakhstan|Astana
Kenya|Nairobi
Kiribati|South Tarawa
Kosovo|Pristina
Kuwait|Kuwait City
Kyrgyzstan|Bishkek
Laos|Vientiane
Latvia|Riga
Lebanon|Beirut
Lesotho|Maseru
Liberia|Monrovia
Libya|Tripoli
Liechtenstein|Vaduz
Lithuania|Vilnius
Luxembourg|Luxembourg
Madagascar|Antananarivo
Malawi|Lilongwe
Malaysia|Kuala Lumpur
the Maldives|Male
Mali|Bamako
Malta|Valletta
the Marshall Islands|Majuro
Mauritania|Nouakchott
Mauritius|Port Louis
Mexico|Mexico City
Micronesia|Palikir|the Federated States of Micronesia
Moldova|Chisinau
Monaco|Monaco
Mongolia|Ulaanbaatar
Montenegro|Podgorica
Morocco|Rabat
Mozambique|Maputo
Myanmar|Naypyidaw|Burma
Namibia|Windhoek
Nauru|Yaren
Nepal|Kathmandu
the Netherlands|Amsterdam|Holland
New Zealand|Wellington
Nicaragua|Managua
Niger|Niamey
Nigeria|Abuja
North Korea|Pyongyang|the DPRK
North Macedonia|Skopje|Macedonia
Norway|Oslo
Oman|Muscat
Pakistan|Islamabad
Palau|Ngerulmud
Palestine|Ramallah
Panama|Panama City
Papua New Guinea|Port Moresby
Paraguay|Asuncion
Peru|Lima
the Philippines|Manila
Poland|Warsaw
Portugal|Lisbon
Qatar|Doha
Romania|Bucharest
Russia|Moscow|the Russian Federation
Rwanda|Kigali
Saint Kitts and Nevis|Basseterre|St Kitts and Nevis|St. Kitts and Nevis
Saint Lucia|Castries|St Lucia|St. Lucia
Saint Vincent and the Grenadines|Kingstown|St Vincent and the Grenadines|St. Vincent and the Grenadines
Samoa|Apia
San Marino|San Marino
Sao Tome and Principe|Sao Tome|São Tomé and Príncipe
Saudi Arabia|Riyadh
Senegal|Dakar
Serbia|Belgrade
the Seychelles|Victoria
Sierra Leone|Freetown
Singapore|Singapore
Slovakia|Bratislava|the Slovak Republic
Slovenia|Ljubljana
the Solomon Islands|Honiara
Somalia|Mogadishu
South Africa|Pretoria
South Korea|Seoul|Korea|the Republic of Korea
South Sudan|Juba
Spain|Madrid
Sri Lanka|Sri Jayawardenepura Kotte
Sudan|Khartoum
Suriname|Paramaribo
Sweden|Stockholm
Switzerland|Bern
Syria|Damascus
Taiwan|Taipei
Tajikistan|Dushanbe
Tanzania|Dodoma
Thailand|Bangkok
Togo|Lome
Tonga|Nuku'alofa
Trinidad and Tobago|Port of Spain|Trinidad
Tunisia|Tunis
Turkey|Ankara|Turkiye|Türkiye
Turkmenistan|Ashgabat
Tuvalu|Funafuti
Uganda|Kampala
Ukraine|Kyiv
the United Arab Emirates|Abu Dhabi|the UAE|the Emirates
the United Kingdom|London|the UK|Great Britain|Britain
the United States|Washington, D.C.|the USA|the US|the United States of America
Uruguay|Montevideo
Uzbekistan|Tashkent
Vanuatu|Port Vila
Vatican City|Vatican City|the Vatican|the Holy See
Venezuela|Caracas
Vietnam|Hanoi|Viet Nam
Yemen|Sanaa
Zambia|Lusaka
Zimbabwe|Harare
"""


def _parse_row(row: str) -> Country:
    name, capital, *aliases = row.split("|")
    return Country(name, capital, tuple(aliases))


COUNTRIES: Final = tuple(_parse_row(row) for row in _TABLE.split("\n") if row)
