"""README: word lists for the questions that the demo model must say it cannot answer."""

# ruff: noqa: SIM905 - word lists read best as text.

from __future__ import annotations

from typing import Final

NOUNS: Final = tuple(
    """apple airplane algorithm animal ant army art atom autumn baby ball banana bank battery bear bee beer bicycle
bird blood boat body bone book bottle box brain bread bridge brother bus butter cake camera candle car cat
chair cheese chess chicken child church cinema circle city cloud coffee color comet company computer concert
cookie copper cotton cow crystal dance data democracy desert diamond dinosaur doctor dog dolphin door dragon
dream drum eagle earth egg electricity elephant energy engine evolution eye family farm father film fire fish
flower football forest fox freedom friend frog fruit galaxy game garden gas gene ghost glass gold grass
gravity guitar hammer hand hat heart history honey horse hospital house ice insect internet iron island jazz
justice key king kitchen knife lake lamp language law leaf library light lion love machine magnet map market
math medicine metal microscope milk mind mirror money monkey moon mother mountain mouse museum music name
nature novel number ocean oil opera orange oxygen paint paper parliament party pen penguin philosophy phone
photo physics piano pizza planet plant poem poet police potato printer prison queen radio rain rainbow recipe
religion rice river road robot rocket rose salt sand school science sea season shark sheep ship shoe silver
sister sky snake snow soap song soul soup space spider star steam stone storm story sugar summer sun sword
table tea teacher telescope temple tiger time toast tomato tooth tower train tree truth turtle universe
vaccine village violin virus volcano war water whale wheat wheel wind window wine winter wolf wood word world
writer year zebra""".split()
)

VERBS: Final = tuple(
    """bake break build buy catch clean climb close cook cut draw drink drive eat find fix fly fold forget grow hide
invent learn lift make measure open paint play print read repair ride run sell sing sleep solve teach throw
translate wash write""".split()
)

ADJECTIVES: Final = tuple(
    """big small old new fast slow red blue green yellow black white deep high long short heavy light hot cold good
bad best worst biggest smallest oldest tallest fastest cheapest strongest brightest famous strange beautiful
dangerous""".split()
)

PEOPLE: Final = tuple(
    """Einstein Newton Mozart Napoleon Shakespeare Cleopatra Caesar Darwin Galileo Beethoven Picasso Gandhi Mandela
Lincoln Washington Churchill Tesla Edison Curie Turing Lovelace Aristotle Plato Homer Dante Goethe Kant Marx
Freud Bach Elvis Madonna Messi Obama Alice Bob Carol Peter Maria John Anna Hamlet Batman Superman Sherlock
Gandalf""".split()
)

PLACES: Final = (
    "Texas", "California", "Florida", "Alaska", "Bavaria", "Saxony", "Quebec", "Ontario", "Queensland", "Hawaii",
    "Scotland", "Wales", "England", "Sicily", "Catalonia", "Siberia", "Tibet", "Europe", "Africa", "Asia", "America",
    "Antarctica", "the Moon", "Mars", "Jupiter", "Atlantis", "Narnia", "Wakanda", "Mordor", "Gondor", "Westeros", "Oz",
    "Hogwarts", "Neverland", "Prussia", "Yugoslavia", "Rome", "Tokyo", "Berlin", "Paris", "Madrid", "New York", "Ohio",
    "the world", "the ocean", "the sea", "my country", "nowhere", "everything", "the universe", "Greenland", "Bermuda",
    "Puerto Rico", "Hong Kong", "Macau", "Gibraltar", "Guam", "Aruba", "Utopia", "Middle-earth", "the internet",
)  # fmt: skip

CITIES: Final = (
    "Munich", "Hamburg", "Lyon", "Marseille", "New York", "Los Angeles", "Chicago", "Barcelona", "Seville", "Milan",
    "Naples", "Venice", "Manchester", "Liverpool", "Sydney", "Melbourne", "Toronto", "Vancouver", "Mumbai", "Kolkata",
    "Shanghai", "Istanbul", "Rio de Janeiro", "Sao Paulo", "Osaka", "Kyoto", "Geneva", "Zurich", "Rotterdam", "Porto",
    "Krakow", "Saint Petersburg", "Casablanca", "Lagos", "Johannesburg", "Cape Town", "Karachi", "Dubai", "Busan",
)  # fmt: skip

LANGUAGES: Final = (
    "French", "German", "Spanish", "Italian", "Latin", "Greek", "Japanese", "Chinese", "Russian", "Arabic", "Hindi",
    "Python", "Rust", "C", "Java", "Dutch", "Swedish", "Polish", "Turkish", "Korean", "English",
)  # fmt: skip

# Each names a noun {n}, {m}, a verb {v}, an adjective {a}, a person {p}, a country {c}, a city {t} or a language {l}.
UNKNOWN_TEMPLATES: Final = tuple(
    line
    for line in """
Who invented the {n}?
Who discovered {n}?
Who wrote the {a} {n}?
Who is {p}?
Who was {p}?
Who painted the {n}?
Who is the president of {c}?
Who is the king of {c}?
Who rules {c}?
When was {p} born?
When did {p} die?
When was the {n} invented?
When was {c} founded?
When does the {n} start?
Where is {c}?
Where is {t}?
Where can I buy a {n}?
Where does {n} come from?
Where was {p} born?
What is a {n}?
What is {n}?
What is the {n}?
What is the {a} {n}?
What is the {a} {n} in {c}?
What is the {n} of {c}?
What is the {n} of the {m}?
What is the meaning of {n}?
What is the color of the {n}?
What color is the {n}?
What is the population of {c}?
What is the currency of {c}?
What is the language of {c}?
What is the flag of {c}?
What is the area of {c}?
What is the largest city in {c}?
What language do they speak in {c}?
What is the weather in {t}?
What is the weather like today?
What time is it in {t}?
What is the height of the {n}?
What is the difference between {n} and {m}?
What did {p} say about {n}?
What does {n} mean in {l}?
What do you think about {n}?
What happens when I {v} the {n}?
What happened in {y}?
What happened in {c} in {y}?
What is the square root of {i}?
What is {i} percent of {j}?
What is the opposite of {a}?
How many people live in {c}?
How many {n}s are there?
How many {n}s does a {m} have?
How old is {p}?
How old is the {n}?
How tall is {p}?
How tall is the {n}?
How far is the {n}?
How far is {t} from {s}?
How big is {c}?
How do I {v} a {n}?
How do I {v} the {a} {n}?
How do you {v} a {n}?
How does a {n} work?
How do you say {n} in {l}?
How much does a {n} cost?
How long does it take to {v} a {n}?
Why is the {n} {a}?
Why do {n}s {v}?
Why did {p} {v} the {n}?
Which {n} is the {a}?
Which country is the {a}?
Which is better, {n} or {m}?
Is the {n} {a}?
Is {t} in {c}?
Are {n}s {a}?
Can a {n} {v}?
Can you {v} a {n}?
Can you {v}?
Can you write {l}?
Do you like {n}?
Do you speak {l}?
Does {p} {v}?
Will it rain in {t}?
Should I {v} the {n}?
Write a poem about the {n}.
Write a {n}.
Write an essay about {n}.
Write a story about a {a} {n}.
Write a program in {l}.
Write code to {v} a {n}.
Tell me a joke.
Tell me a joke about {n}.
Tell me a story about a {n}.
Tell me about {c}.
Tell me about {p}.
Tell me about {n}.
Tell me something about the {n}.
Tell me the {n}.
Give me a recipe for {n}.
Give me an example of a {n}.
Give me the {n} of {c}.
Explain {n}.
Explain the {n} to me.
Explain how to {v} a {n}.
Describe a {n}.
Describe {c}.
Define {n}.
Define {a}.
Translate {n} into {l}.
Translate this into {l}: the {a} {n}
Summarize the {n}.
Summarize this: the {n} is {a}.
List five {n}s.
List the {n}s of {c}.
Name three {n}s.
Name a {n}.
Name the {a} {n}.
Spell {n}.
Sing a song about {n}.
Recommend a {n}.
Compare {n} and {m}.
Please {v} the {n}.
Let us {v} a {n}.
I want to {v} a {n}.
I like {n}.
I have a {a} {n}.
I need a {n} for my {m}.
My {n} is {a}.
My name is {p}.
The {n} is {a}.
The {a} {n}
the {n} of the {m}
{n}
{n}?
{a} {n}
{n} and {m}
{v} the {n}
{p}
{p}?
{t}?
{l}
{n} {m} {a}
{n} of {c}
{n} {v} {a} {m} {p}
{v}
Once upon a time there was a {a} {n}
Once upon a time
In {y}, {p} found a {n}.
{p} said: the {n} is {a}.
Count the {n}s.
Count to {k}.
Count backwards.
Say {n}.
Repeat {n}.
Say something.
Say the {n}.
Solve the {n}.
Play {n}.
yes
no
ok
maybe
why?
what?
who?
where?
test
Continue.
Go on.
Are you sure?
What is the capital?
What is the answer?
What is the sum?
What is the number?
Which country?
What is love?
What is the meaning of life?
What is the time?
What day is it?
Is there a god?
Was ist die Hauptstadt von {c}?
Quelle est la capitale?
""".splitlines()
    if line
)
