"""What help-desk messages say besides their request: greetings, circumstances, urgency, closings, and slot values.

Urgency is decided here alone: a message is `high` or `low` exactly if it carries a cue from that list.
"""

from __future__ import annotations

import random

from feedback.starter.pattern import Slots

OPENINGS = (
    "(hi|hello|hey|dear)( team| there| support| all| everyone|)",
    "good (morning|evening|afternoon|day)",
    "(hello|hi) (again|service desk|from {city})",
    "(excuse me|a question|quick question|one question|sorry to bother you)",
    "*(greetings|dear colleagues|hi folks|dear shop)",
    "*(may I ask something|just a question|hello from {city})",
)

CIRCUMSTANCES = (
    "(I have been|I am) a (customer|member) (since {year}|for {count} years)",
    "(my customer number is|customer number|my reference is|reference) {number}",
    "(it is|this is) about {order}",
    "(I bought|I ordered|we bought) (it|everything) {when}",
    "(I am writing|I write) (from {city}|for my mother|for my father|for our office|on behalf of a friend)",
    "(I looked|I searched) (in|through) (your help pages|the questions and answers) (but found nothing|without luck)",
    "(I asked|I called|I rang) {when} (but|and) (nobody could help|was told to write)",
    "(my friend|my sister|a colleague|my neighbour) (had the same question|told me to ask you)",
    "*(writing|this comes) from {city} (on my {device}|)",
    "*(you will find me under|my number with you is) {number}",
    "*(your chat|your hotline) (sent me here|told me to write) {when}",
)

URGENCY: dict[str, tuple[str, ...]] = {
    "high": (
        "(this is|it is|it's|this is very|it is really) urgent",
        "(urgent|very urgent|URGENT|urgent matter)!?",
        "(please|) (answer|reply|help|act) (asap|ASAP|at once|immediately|right away|right now)",
        "I need (this|it|an answer|a solution) (today|now|by tonight|by tomorrow|within the hour|immediately)",
        "(it cannot wait|this cannot wait|I cannot wait any longer|it can't wait)",
        "(I leave|we leave|I am travelling|I fly|my flight is|my train leaves) (tomorrow|tonight|in two hours|in the morning)",
        "(there is a deadline|my deadline is|the deadline is) (today|tomorrow|tonight)",
        "(this is the third time I write|I wrote three times already|third message about this|I have asked twice already)",
        "(top priority|high priority|highest priority)( please|)",
        "(my boss|my client|my customer) (is waiting|needs it today|wants it now)",
        "(please hurry|hurry please|hurry|hurry up|as fast as you can|as quickly as possible|as soon as possible)",
        "(the party|the wedding|the birthday|the meeting) is (tomorrow|today|tonight)",
        "*(every minute counts|no time to lose|an emergency)(, it is urgent|, please hurry|, I need it now)",
        "*(must be sorted|has to be solved|needs an answer) (today|right now|by tomorrow|immediately)",
        "*(I have already asked three times|this is my third mail), (it cannot wait|please hurry)",
        "*(of the highest priority|most urgent), (asap|at once|now) please",
        "*(the deadline|our meeting|my flight) is (in two hours|tomorrow), (hurry|please answer now)",
    ),
    "normal": (
        "(thanks|thank you|many thanks) (in advance|for your help|for looking into it)",
        "(please|kindly) (let me know|get back to me|advise|tell me what to do)",
        "(what should I do|what can I do|what do you suggest|how does it go on)?",
        "(I look forward to|I await) (your answer|your reply|hearing from you)",
        "(can you help|could you help me|could somebody help|can you look into it)?",
        "(I hope|I trust) you can (help|sort it out|solve this)",
        "*(grateful for|happy about) any (help|answer|advice)",
        "*(what are the next steps|what happens next|who can help me)?",
        "*(a short answer would be nice|your help is welcome|an answer would help)",
    ),
    "low": (
        "(no rush|no hurry|there is no rush|there is no hurry|it is not urgent|not urgent)( at all| from my side|)",
        "(whenever you have time|when you have time|whenever it suits you|when you get round to it)",
        "(take your time|please take your time|you can take your time)",
        "(it can wait|this can wait|it can easily wait) (until next week|until next month|a few days|a while|)",
        "(just curious|I am only curious|only out of curiosity|just wondering)",
        "((any time this month|some time next week|some other day) is (fine|okay)|any day will do)",
        "(nothing urgent|low priority|this has time|it has time|not in a hurry)",
        "(answer|reply|write back) (at your leisure|when things are quiet|some time|when it suits)",
        "(I am in no hurry|I'm in no rush|we are in no hurry|we are not in a rush)",
        "*(no need to hurry|don't hurry|you need not rush), (it can wait|take your time|next week is fine)",
        "*(low priority|not pressing at all|far from urgent), (whenever suits|it has time|no rush)",
        "*(if you find the time|on a quiet day), (no hurry|it is not urgent|just wondering)",
        "*(can wait|may wait) until (you have time|next month|next week), (no rush|really)",
    ),
}

CLOSINGS = (
    "(thanks|thank you|many thanks|cheers|thx)( a lot| so much|)",
    "(kind|best|warm|many) (regards|wishes)( from {city}|)",
    "(have a nice day|bye|yours|yours sincerely|greetings from {city})",
    "*(all the best|with thanks|so long|thank you kindly)",
)

_STREETS = (
    "Mill",
    "Station",
    "Garden",
    "Church",
    "Hill",
    "Lake",
    "Park",
    "River",
    "Oak",
    "School",
    "Bridge",
    "North",
)


def _digits(rng: random.Random, count: int) -> str:
    return str(rng.randrange(10 ** (count - 1), 10**count))


def _order(rng: random.Random) -> str:
    number = _digits(rng, rng.choice((4, 5, 6)))
    return rng.choice(
        ("order {}", "order #{}", "my order {}", "order no. {}", "order number {}", "#{}")
    ).format(number)


def _amount(rng: random.Random) -> str:
    whole = rng.randrange(4, 400)
    return rng.choice(
        (
            f"${whole}.{rng.randrange(10, 100)}",
            f"${whole}",
            f"{whole} euros",
            f"€{whole}",
            f"£{whole}",
            f"{whole} dollars",
        )
    )


def _code(rng: random.Random) -> str:
    word = rng.choice(
        ("SAVE", "SUN", "HELLO", "SPRING", "GIFT", "TEN", "HOME", "SALE", "FALL", "BONUS", "WELCOME")
    )
    return word + str(rng.randrange(5, 100))


def _street(rng: random.Random) -> str:
    street = rng.choice(_STREETS) + rng.choice((" Street", " Road", " Lane", " Avenue"))
    return rng.choice((f"{rng.randrange(1, 200)} {street}", f"{street} {rng.randrange(1, 200)}"))


SLOTS: Slots = {
    "product": (
        "({colour} |new |small |large |){gadget}",
        "({colour} |new |){wear}",
        "({colour} |new |small |)(backpack|desk|chair|bicycle|tent|rug|blanket|suitcase|umbrella|pillow|teapot|curtain)",
        "({material} |{colour} |)(table|shelf|sofa|bed frame|mirror|bowl|bench|cupboard|photo frame|tray|garden swing)",
        "*({colour} |{material} |)(stool|vase|basket chair|pan|bookcase|lantern|wardrobe|dog bed|yoga mat|baby seat)",
    ),
    "gadget": (
        "(drill|vacuum cleaner|blender|coffee machine|iron|fan|heater|hair dryer|mixer|shaver|kettle|lamp|toaster)",
        "(camera|tablet|printer|monitor|router|projector|e-reader|radio|mouse|charger|game console|keyboard|watch)",
        "*(air fryer|electric scooter|sewing machine|microphone|alarm clock|dehumidifier|floor lamp)",
    ),
    "wear": (
        "(jacket|raincoat|sweater|scarf|dress|hat|pair of (gloves|boots|running shoes)|*cardigan|*pair of sandals)",
    ),
    "colour": ("(blue|black|green|red|grey|white|yellow|brown|*orange|*purple)",),
    "material": ("(oak|glass|steel|leather|bamboo|cotton|*marble|*walnut)",),
    "weekday": ("(Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday)",),
    "month": ("(January|February|March|April|May|June|July|August|September|October|November|December)",),
    "when": (
        "(yesterday|last week|last {weekday}|on {weekday}|last month|this morning)",
        "({small} days ago|{small} weeks ago|a week ago|the other day)",
        "on (the {day}th|{day} {month}|{month} {day})",
        "*(around {day} {month}|early in {month}|at the weekend|the week before last)",
    ),
    "since": (
        "(yesterday|last week|last {weekday}|{weekday}|this morning|{day} {month}|*the weekend|*early {month})",
    ),
    "age": ("({small} months|a year|half a year|{small} years|*{small} weeks|*not even a year)",),
    "small": ("(two|three|four|five|six|eight|ten)",),
    "plan": (
        "(monthly plan|yearly plan|premium plan|subscription|membership|trial|family plan|*box subscription|*trial month)",
    ),
    "device": ("(phone|laptop|tablet|work computer|old phone|desktop|*new laptop|*second phone)",),
    "city": ("(Leeds|Porto|Lyon|Ghent|Bergen|Austin|Dublin|Graz|Utrecht|Turin|*Malmö|*Cork|*Bath|*Seville)",),
    "size": ("(S|M|L|XL|38|40|42|44|46)",),
    "order": _order,
    "amount": _amount,
    "code": _code,
    "street": _street,
    "error": lambda rng: rng.choice(("404", "500", "502", "503", "E12", "E47", "1001")),
    "serial": lambda rng: rng.choice("ABCDEFGH") + _digits(rng, 5),
    "number": lambda rng: _digits(rng, 6),
    "count": lambda rng: str(rng.randrange(2, 15)),
    "day": lambda rng: str(rng.randrange(4, 21)),
    "year": lambda rng: str(rng.randrange(2012, 2025)),
}
