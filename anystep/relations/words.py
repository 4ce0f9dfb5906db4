"""The words that the grammar knows: phrases of the five relations, and the closed classes of English around a noun phrase.

A noun is whatever is none of them, so no noun is listed but those that look like a verb.
"""

import re


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


# ---------------------------------------------------------------- relations
_SPATIAL = {  # "(a|b)" is either, "?" makes what stands before it optional
    "left": ("left of", "(to|on|at) (the )?((far|immediate) )?left of", "(to|on|at) (the )?left(-hand| hand)? side of"),
    "right": ("right of", "(to|on|at) (the )?((far|immediate) )?right of", "(to|on|at) (the )?right(-hand| hand)? side of"),
    "above": ("above", "over", "atop", "on (the )?top of"),
    "below": ("below", "beneath", "under", "underneath", "on (the )?bottom of"),
    "near": ("near( to)?", "next to", "close to", "adjacent to", "beside", "alongside", "by", "(on|at|to|by) (the )?side of"),
}
WORDS = tuple(_SPATIAL)
PHRASES = {word: re.compile("|".join(phrases)) for word, phrases in _SPATIAL.items()}
LONGEST = 6  # words of a phrase: "on the left hand side of"
ELSEWHERE = _set("behind front inside outside between among around against opposite across beyond within far away")  # none of the five
PLACES = _set("left right top bottom middle center centre corner edge side")  # after "on the": in the picture, or of something unsaid
REMAINS = _set("slice slices piece pieces bit bits crumbs half quarter bite bites drop drops part parts rest remains remnants ruins")

# ---------------------------------------------------------------- before a noun
ARTICLES = _set("a an the")
SINGULAR = _set("a an each every another one")
OWNERS = _set("my your his her its our their")
DETERMINERS = ARTICLES | _set("this that these those some any each every another both all") | OWNERS
NUMBERS = _set("one two three four five six seven eight nine ten eleven twelve dozen several many few multiple numerous")
HOLLOW = NUMBERS | _set("other only")  # no noun phrase alone
SIDES = _set("left right upper lower far immediate high low tall straight upright")  # end no noun phrase

# ---------------------------------------------------------------- no part of a noun phrase
NEGATIONS = _set("not no never neither nor cannot isn't aren't wasn't weren't doesn't don't can't hardly nothing nobody none")
CONNECTORS = _set(", and & or / while whereas but ( ) - – —")
RELATIVES = _set("that which who that's which's who's")
BE = _set("is are was were be been being")
AUXILIARIES = BE | _set("can could may might must will would should has have had")
ADVERBS = _set(
    "directly just immediately right slightly closely exactly clearly partly partially straight high low up down upright tall now "
    "currently also still there together alone side"
)
PREPOSITIONS = _set(
    "of in on at with without by from to into onto for as like about than inside outside behind between among around against across "
    "along through toward towards beyond within during after before off out near above below under over beneath beside underneath "
    "alongside atop next close adjacent despite except instead rather upon via per plus facing touching wearing holding"
)
PRONOUNS = _set(
    "i me you he him she it we us they them itself himself herself themselves mine yours ours theirs what whose whom where when why how "
    "something anything everything someone anyone everyone somebody everybody little much others it's there's here here's"
)
CONJUNCTIONS = _set("if unless because although though since until so yet then either whether else")
SHOWING = _set("shows show showing depicts depict depicting says say saying reads has contains")
STOP = (
    NEGATIONS | CONNECTORS | RELATIVES | AUXILIARIES | PREPOSITIONS | PRONOUNS | CONJUNCTIONS | SHOWING | DETERMINERS
) | ADVERBS - SIDES - _set("side")

# ---------------------------------------------------------------- verbs that only place a thing
PRESENT = _set(
    "sits stands lies rests hangs floats hovers perches leans sleeps swims grazes flies kneels crouches waits appears lives grows"
)
PAST = _set(
    "sat stood lay hung flew swam slept lain floated rested hovered leaned grazed waited appeared "
    "flowed bloomed fluttered hopped bounced rolled walked ran played"
)
PARTICIPLES = _set(
    "sitting standing lying resting hanging floating hovering perching perched leaning sleeping swimming grazing flying kneeling "
    "crouching waiting appearing growing rising posing placed located positioned situated found seen shown set put mounted parked "
    "seated stacked arranged suspended nestled displayed snuggled snuggling laid "
    "made written painted drawn printed carved walking running playing dancing flowing blooming fluttering bouncing hopping rolling glowing"
)
PLURAL_PRESENT = _set("sit stand lie rest hang float hover perch lean sleep swim graze fly kneel crouch wait appear grow")
POSTURES = BE | PRESENT | _set("sat stood lay sitting standing lying parked seated sit stand lie waiting grazing")  # before "by"

# ---------------------------------------------------------------- nouns and adjectives that look like a verb
ING_NOUNS = _set(
    "painting building ceiling earring drawing clothing duckling sibling pudding wedding awning railing stocking dumpling sapling "
    "lightning evening morning lettering carving filling herring starling gosling topping icing frosting bedding viking crossing "
    "landing covering opening flooring lighting parking dwelling darling hatchling seedling engraving etching"
)
ING_MODIFIERS = _set(
    "dining parking flying sleeping rocking running swimming washing sewing cutting frying baking cooking living shopping fishing sailing "
    "wedding ironing hiking boxing rolling folding floating burning glowing shining smiling sitting standing jumping walking dancing "
    "serving mixing measuring drinking knitting reading writing skating climbing racing vending recycling watering shaving hanging "
    "boiling steaming painting drawing building charging landing crossing coloring roaring barking flowering towering matching spinning "
    "swinging winding sparkling glittering shimmering"
)
ED_NOUNS = _set("hundred moped biped flatbed seabed sunbed bunkbed watershed bobsled daybed quadruped red airbed waterbed")
LY_NOUNS = _set("butterfly family lily jelly belly assembly dragonfly firefly housefly gully trolley italy july anomaly doily holly")
PAIRS = _set("scissors skis pants glasses sneakers jeans shorts headphones binoculars shoes boots goggles sunglasses tongs pliers stairs")
S_MODIFIERS = _set("sports christmas glasses clothes goods arms games savings customs news lens series jeans kids ladies mens")

# ---------------------------------------------------------------- the picture itself
MEDIA = _set(
    "photo photograph picture image painting drawing sketch illustration rendering render view shot scene snapshot artwork cartoon "
    "portrait close-up closeup watercolor print collage depiction"
)
FRAMES = _set("photo photograph picture image frame scene canvas composition shot background foreground")
COMMANDS = _set("draw paint create generate make show render imagine sketch depict illustrate put place")
