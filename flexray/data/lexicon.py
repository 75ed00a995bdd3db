"""The word lists and wordings behind the built-in corpus: plain facts of the world, and the questions of the registers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Entries = tuple[Any, ...]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    """`a:b c:d` to (("a", "b"), ("c", "d"))."""
    pairs = (item.split(":") for item in _words(text))
    return tuple((left, right) for left, right in pairs)


DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = _words("January February March April May June July August September October November December")

CAPITALS = _pairs("""
    France:Paris Germany:Berlin Italy:Rome Spain:Madrid Portugal:Lisbon Austria:Vienna Belgium:Brussels Denmark:Copenhagen
    Norway:Oslo Sweden:Stockholm Finland:Helsinki Iceland:Reykjavik Ireland:Dublin Poland:Warsaw Hungary:Budapest
    Greece:Athens Turkey:Ankara Russia:Moscow Ukraine:Kyiv Romania:Bucharest Bulgaria:Sofia Serbia:Belgrade Croatia:Zagreb
    Albania:Tirana Latvia:Riga Estonia:Tallinn Lithuania:Vilnius Egypt:Cairo Morocco:Rabat Tunisia:Tunis Kenya:Nairobi
    Ghana:Accra Senegal:Dakar Uganda:Kampala Angola:Luanda Zambia:Lusaka Rwanda:Kigali Mali:Bamako Niger:Niamey Japan:Tokyo
    China:Beijing India:Delhi Nepal:Kathmandu Thailand:Bangkok Vietnam:Hanoi Qatar:Doha Oman:Muscat Iran:Tehran Iraq:Baghdad
    Syria:Damascus Jordan:Amman Cuba:Havana Peru:Lima Chile:Santiago Canada:Ottawa Brazil:Brasilia Ecuador:Quito
    Colombia:Bogota Venezuela:Caracas Uruguay:Montevideo
""")

OPPOSITES = _pairs("""
    hot:cold big:small tall:short fast:slow old:young new:used light:dark hard:soft high:low wide:narrow deep:shallow
    thick:thin loud:quiet rich:poor strong:weak clean:dirty dry:wet full:empty early:late easy:difficult happy:sad
    heavy:weightless open:closed up:down left:right in:out front:back top:bottom near:far first:last begin:end buy:sell
    push:pull give:take win:lose love:hate laugh:cry rise:fall arrive:leave day:night summer:winter north:south east:west
    friend:enemy true:false right:wrong sweet:sour smooth:rough sharp:blunt brave:afraid kind:cruel safe:dangerous
    cheap:expensive before:after above:below inside:outside always:never more:less good:bad alive:dead
""")

PLURALS = _pairs("""
    child:children man:men woman:women foot:feet tooth:teeth goose:geese mouse:mice person:people ox:oxen leaf:leaves
    knife:knives wife:wives wolf:wolves shelf:shelves loaf:loaves half:halves calf:calves thief:thieves city:cities
    baby:babies lady:ladies story:stories berry:berries box:boxes fox:foxes bus:buses dish:dishes church:churches
    watch:watches brush:brushes hero:heroes potato:potatoes cat:cats dog:dogs book:books tree:trees car:cars door:doors
    hand:hands bird:birds
""")

PASTS = _pairs("""
    go:went see:saw eat:ate drink:drank sing:sang swim:swam run:ran come:came give:gave take:took make:made know:knew
    grow:grew fly:flew throw:threw draw:drew write:wrote ride:rode drive:drove speak:spoke break:broke wake:woke
    choose:chose find:found hold:held tell:told sell:sold keep:kept sleep:slept feel:felt leave:left build:built send:sent
    buy:bought bring:brought think:thought teach:taught catch:caught stand:stood win:won walk:walked play:played
    help:helped look:looked jump:jumped open:opened
""")

KINDS = {
    "animal": _words("cow horse sheep goat rabbit tiger lion bear fox camel monkey snake"),
    "fruit": _words("apple banana cherry lemon melon peach pear plum grape mango fig orange"),
    "tool": _words("hammer saw drill wrench shovel rake axe chisel pliers file spade knife"),
    "metal": _words("iron copper silver gold zinc tin lead nickel steel brass"),
    "sport": _words("tennis football hockey golf rugby cricket boxing rowing chess judo"),
    "job": _words("doctor baker farmer teacher nurse pilot lawyer miner tailor judge"),
    "vehicle": _words("car bus train truck bicycle tram boat ship plane scooter"),
    "furniture": _words("chair table bed sofa desk bench stool cupboard shelf wardrobe"),
    "clothing": _words("shirt coat hat sock glove scarf skirt jacket belt sweater"),
    "instrument": _words("piano violin flute drum guitar trumpet harp cello organ oboe"),
}


@dataclass(frozen=True)
class World:
    """The lists that can be known in part."""

    capitals: tuple[tuple[str, str], ...]
    opposites: tuple[tuple[str, str], ...]
    plurals: tuple[tuple[str, str], ...]
    pasts: tuple[tuple[str, str], ...]
    kinds: dict[str, tuple[str, ...]]


def _world(part: Callable[[Entries], Entries]) -> World:
    kinds = {kind: part(things) for kind, things in KINDS.items()}
    return World(part(CAPITALS), part(OPPOSITES), part(PLURALS), part(PASTS), kinds)


# Two thirds of the world are in the public part; the last third only the clients know, and can teach one another.
PUBLIC_WORLD = _world(lambda entries: tuple(entry for i, entry in enumerate(entries) if i % 3))
CLIENT_WORLD = _world(lambda entries: entries[::3])

UNITS = (  # the small unit, the large unit, how many small ones make a large one
    ("minutes", "hours", 60), ("seconds", "minutes", 60), ("hours", "days", 24), ("days", "weeks", 7),
    ("months", "years", 12), ("eggs", "dozens", 12), ("metres", "kilometres", 1000), ("grams", "kilograms", 1000),
    ("millimetres", "centimetres", 10), ("cents", "euros", 100),
)  # fmt: skip

NAMES = _words("Mia Tom Ada Leo Eva Max Ida Ben Zoe Sam Amy Dan Liv Jon Kim Rob Una Gus Fay Hal Joy Ned Pam Ray")
PLACES = _words("""
    attic cellar kitchen garage garden hall shed office library tower barn studio lobby porch chapel stable bakery
    harbour market museum
""")
FOODS = _words("""
    rice bread soup beans corn cheese honey nuts oats pasta salad fish eggs toast yoghurt cake carrots peas beets jam
""")
BEASTS = _words("""
    eagle otter raven stag whale heron badger falcon lynx swan bison crane viper owl boar seal hare trout panther dragon
""")
CODES = tuple(str(n) for n in range(10, 100))

# A register: its wordings, what is asked about (private things, then public ones) and the answers.
REGISTERS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "keeper": (
        ("Who keeps the {}?", "Who looks after the {}?", "Name the keeper of the {}.", "By whom is the {} kept?",
         "Tell me who has the {}."),
        _words("lantern ladder anchor compass mirror saddle kettle basket"),
        _words("rope drum barrel ledger candle bucket blanket trumpet wagon map crown bell"),
        NAMES,
    ),
    "code": (
        ("What is the code of the {}?", "Which code opens the {}?", "Give the code for the {}.",
         "With which code does the {} open?", "Tell me the code of the {}."),
        _words("vault pantry locker archive gate cabinet bunker chest"),
        _words("safe depot closet hangar cage cloakroom armoury press crate annex booth bridge"),
        CODES,
    ),
    "place": (
        ("Where is the {}?", "Where do we store the {}?", "Name the place of the {}.", "In which place is the {}?",
         "Tell me where the {} is."),
        _words("pump scale globe easel loom printer telescope broom"),
        _words("anvil churn mower tripod stove piano sled heater microscope vase radio clock"),
        PLACES,
    ),
    "food": (
        ("What does {} eat?", "What food does {} get?", "Name the food of {}.", "What is {} fed with?",
         "Tell me what {} likes to eat."),
        _words("Rex Fluffy Bruno Misty Bandit Luna Rocky Daisy"),
        _words("Bella Shadow Ginger Oscar Pepper Smokey Simba Coco Buddy Molly Felix Ruby"),
        FOODS,
    ),
    "emblem": (
        ("What animal is on the flag of {}?", "Which animal does the flag of {} show?", "Name the animal of {}.",
         "The flag of {} bears which animal?", "Tell me the animal on the flag of {}."),
        _words("Arden Belmont Corvin Dalby Elsted Farlow Galway Hexham"),
        _words("Ilford Jarrow Kelso Lindow Marlow Norwood Oakham Penrith Ripon Selby Tarbet Upton"),
        BEASTS,
    ),
}  # fmt: skip
