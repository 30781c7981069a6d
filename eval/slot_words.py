"""How E2E's slots are put into words: tables of regular expressions, collected from E2E's training references.

They are searched in text as `slot_rules.normalise` leaves it: lower case, single spaces, no accents, hyphens or quotes, "not" for
"n't", "centre" for "center", figures for one to five.
"""

import re

SLOTS = ("name", "Type", "food", "price", "customer rating", "area", "family friendly", "near")

# Type, food and area: value → wordings. A value that is in no table is found as it is written.
VALUES = {
    "Type": {
        "coffee shop": r"coffee (?:shop|house|place|bar|restaurant)s?|coffeeshop|cafes?",
        "pub": r"pubs?|bars?|public house|tavern",
        "restaurant": r"restaurants?|eatery|eateries",
    },
    "food": {
        "Chinese": r"chinese",
        "English": r"english|british|fish and chips",
        "Fast food": r"fast food|burgers?",
        "French": r"french",
        "Indian": r"indian|curry",
        "Italian": r"italian|pasta|pizzas?|spaghetti",
        "Japanese": r"japanese|sushi",
    },
    "area": {
        "riverside": r"river ?sides?|riverbank|riverfront|waterside|rivers?",
        "city centre": r"(?:city|town) ?centre|(?:centre|middle|heart) of (?:the |our )?(?:city|town|cambridge)|city|downtown"
        r"|centre|town",
    },
}
# Too vague to contradict: they tell their value where it is asked for, and nothing where another is, or none.
VAGUE = re.compile(r"restaurants?|eatery|eateries|bars?|city|centre|town")
# Before an area: the venue is not there.
ELSEWHERE = re.compile(r"\b(?:outside|outskirts|north|south|east|west|far|away|off)(?: (?:of|from|the))* $")

# Price and rating have three levels, each with one value in words and one in figures. References take one for the other.
LEVELS = {
    "price": {"low": ("cheap", "less than £ 20"), "mid": ("moderate", "£ 20 - 25"), "high": ("high", "more than £ 30")},
    "customer rating": {"low": ("low", "1 out of 5"), "mid": ("average", "3 out of 5"), "high": ("high", "5 out of 5")},
}

MONEY = r"(?:£ )?(\d\d+)(?: £| pounds?| euros?)?"
LESS = r"(?:less than|under|below|up to|cheaper than|lower than|not more than|no more than|at most|within|maximum of|beneath)"
MORE = (
    r"(?:more tha[nt]|over|above|higher than|greater than|exceed(?:s|ing)?|upwards? of|starting (?:at|from|around)"
    r"|starts? (?:at|from)|at least|beyond|in excess of|from)"
)
RATING = r"(?:rat(?:e|es|ed|ing|ings)|review(?:s|ed)?|satisfaction|feedback|scor(?:e|es|ed|ing)|marks)"
AFTER_RATING = (  # rating (from customers is) low
    r"(?:(?:score|scores|range|from|by|customers?|costumers?|users?|people|guests?|is|are|was|has|have|been|being|of|as|at|an?"
    r"|it|the|its|their|very|quite|pretty|fairly|only|just|overall|consistently) )*"
)
FIGURES = {  # slot → pattern → the value as E2E writes it
    "price": {
        rf"{MONEY}(?: to| and| or| through| till)? {MONEY}": "£ {} - {}",
        rf"{LESS} (?:the |about )?{MONEY}(?! \d)": "less than £ {}",
        rf"{MONEY} (?:or|and) (?:less|under|below|cheaper)": "less than £ {}",
        rf"{MORE} (?:the |about )?{MONEY}(?! (?:to |and )?(?:£ )?\d)": "more than £ {}",
        rf"{MONEY} (?:(?:and|or) (?:up|upwards?|more|above|over|higher)|plus|\+)": "more than £ {}",
    },
    "customer rating": {
        r"\b([1-5]) (?:star )?(?:out of|out|of|/) (?:a possible )?5(?: stars?)?\b": "{} out of 5",
        r"\b([1-5]) stars?\b": "{} out of 5",
        rf"\b{RATING} {AFTER_RATING}([1-5])\b(?! (?:stars?|out|of|/))": "{} out of 5",
    },
}

# Levels → wordings, which tell the slot alone, or only beside its noun. "low mid": used for both.
ALONE = {
    "price": {
        "low": r"cheap(?:er|ly|est)?|inexpensive(?:ly)?|economical(?:ly)?|low cost|budget",
        "low mid": r"affordabl[ey]|reasonabl[ey]|modest(?:ly)?",
        "mid": r"mid(?:dle)? ?range|moderately (?:low )?priced",
        "mid high": r"(?:moderately|fairly|quite) expensive",
        "high": r"expensive(?:ly)?|pricey|pricy|costly|upscale|high(?:er)? end|overpriced",
    },
    "customer rating": {},
}
BESIDE = {
    "price": {
        "low": r"low(?:er|est|ly)?|below average",
        "low mid": r"good|great|fair(?:ly)?|decent(?:ly)?",
        "mid": r"moderate(?:ly)?|medium|mid|middle|average(?:ly)?|normal|intermediate|standard|typical",
        "high": r"high(?:er|est|ly)?|upper|top|premium|steep|(?:above|higher than) average",
    },
    "customer rating": {
        "low": r"low(?:er|est|ly)?|poor(?:ly|est)?|bad(?:ly)?|terribl[ey]|negative|awful|horribl[ey]|worst"
        r"|(?:below|lower than|below than) average",
        "mid": r"average(?:ly)?|moderate(?:ly)?|medium|mid|middle|mediocre|ok|okay|decent(?:ly)?|fair(?:ly)?|reasonabl[ey]|mixed",
        "mid high": r"good|well|above average|favourabl[ey]|positive(?:ly)?",
        "high": r"high(?:er|est|ly)?|excellent(?:ly)?|great|top|best|outstanding|perfect|fantastic|superb"
        r"|exceptional(?:ly)?|wonderful",
    },
}
NOUNS = {  # slot → between a wording before it and the noun, the noun, between the noun and a wording after it
    "price": (
        r"(?:(?:to|in|end|range|level|food|menu|overall) )*",  # high (end) price
        r"(?:pric(?:e|es|ed|ing|ey)|costs?|costing)",
        r"(?:(?:range|ranges|ranged|ranging|rating|point|points|level|levels|bracket|tag|category|end|side|is|are|was|of|being"
        r"|in|on|the|an?|as|at|to|be|considered|tends?|quite|very|fairly|pretty|somewhat|rather|bit|relatively|typically|more) )*",
    ),
    "customer rating": (
        r"(?:(?:overall|quality|customers?|costumers?|users?|consumers?|clients?|guests?|visitors?|public|approval|service) )*",
        RATING,
        AFTER_RATING,
    ),
}
# Before a level: it is not that one.
NEGATED = re.compile(
    r"\b(?:not|never|no|without) (?:(?:have|has|had|been|be|is|get|got|receive|received|give|it|an?|the|very|too|so|that|all"
    r"|really|particularly|overly|especially|exactly|considered) )*$"
)

FAMILY = r"(?:famil(?:y|ies)|kids?|child(?:ren)?|toddlers|youngsters)"
FAMILIES = rf"{FAMILY}(?: (?:and|or|nor|of|with|/) (?:(?:young|small) )?{FAMILY})*"
FAMILY_NO = re.compile(
    r"\b(?:(?:not|no|non|none|never|nor|neither|without|bad|unable|unsuitable|unfriendly|unwelcoming|free from|lacks?|bans?"
    rf"|prohibits?|discourages?)(?: (?!and\b|but\b|it\b|near\b|far\b)\w+){{0,6}}? {FAMILIES}(?: friendly)?"  # not a place for families
    rf"|{FAMILIES}(?: friendly)?(?: :)? (?:(?:are|is|should|may|can|do|will|would) not|no|unwelcome|unfriendly|free"  # kids are not …
    r"|not (?:allowed|welcomed|welcome|permitted|recommended)|(?:are |be )?(?:prohibited|discouraged|banned))"
    r"|adults?(?! and)|grown ups?|(?:over|under) 18)\b"
)
FAMILY_YES = re.compile(rf"\b(?:{FAMILIES}(?! (?:owned|run|business))(?: friendly)?|all ages)\b")

# Before a venue's name: it is the neighbour's.
NEAR = re.compile(
    r"\b(?:near(?:by|est)?|closed?(?: by)?|next(?: door)?|(?<!served )(?<!provided )(?<!offered )(?<!sold )by|besides?|adjacent"
    r"|opposite|around|alongside|along|across|vicinity|proximity|far|front|behind|past|neighbou?r(?:s|ing)?|minutes?|walk|away"
    r"|distance|outside|corner|side|between)(?: (?:to|by|of|from|the|a|an|both|door|local|famous|popular|well|known))*$"
)
# Names that no input has, in the text as it was written: capital letters where a name must be.
NAME = r"((?:[Tt]he )?[A-ZÀ-Þ][\w’']*(?: (?:& |of |by )?[A-ZÀ-Þ][\w’']*)*)"
NAMED = re.compile(rf"\b(?:called|named|name\W{{1,4}}?)\s?{NAME}")
SUBJECT = re.compile(
    rf"(?:^|[.!?] +){NAME} (?:is|are|has|have|was|serves?|serving|offers?|provides?|sells?|can|does|located|which|that|in)\b"
)
NEIGHBOUR = re.compile(rf"\b(?:[Nn]ear(?:by)?|close to|next to|far from|beside|near\W{{1,4}})\s?{NAME}")
NOT_IN_NAMES = frozenset(
    "it its they there this that the a an he she we you i in near with located situated for if which found open customers people "
    "families kids children adults price prices meals rating ratings river riverside city centre center food family fast indian "
    "chinese italian french japanese english".split()
)
