"""The words and numbers written in pictures: common words, made-up words and digits."""

from __future__ import annotations

import numpy as np

COMMON = """able apple arm art ask baby back bag ball bank bath beach bear bed bell bird boat body book box boy bread
bridge brown bus cake call camp car card cat chair city clock cloud coat coffee cold cook corn cow cup dance dark day
deer desk dog door dream drink drum duck ear earth east egg engine eye face farm fast field fire fish flag floor flower
fly food foot forest fork fox free friend frog fruit game garden gate gift girl glass goat gold good grass great guitar
hair hand happy hat hello help hill home hope horse hot hotel house ice idea island jam job juice jump key king kite
knife lake lamp land leaf left lemon letter light lion little lock look love lunch map market milk mint money moon
mother mouse music name nest new night north nose nurse ocean office old open park party path peace pen phone piano
pie pig plane plant play pond pull push queen quiet rain read rest rice right river road robot rock roof room rose run
sale salt sand school sea seat sheep ship shirt shoe shop sign silver sing sister sky sleep slow snow soap sofa soup
south space spoon spring stone stop store storm story street sugar summer sun sweet swim table tea team tent thank
ticket tiger time tomato town toy train tree truck uncle under up van village violin voice wall warm watch water wave
west wheel wind window winter wolf wood word world write yard year yes young zebra zoo zero exit enter pizza taxi
""".split()

# Written in no training picture.
FRESH = """anchor banana basket bottle butter candle castle cheese circus cotton dinner dragon father finger flame
ginger guest hammer honey hunter jacket jungle kitten ladder magic maple mirror monkey museum needle orange paper
parade pencil pepper planet pocket pony rabbit racket radio ribbon saddle salad sailor shadow silk spider stair sunny
temple thunder tunnel turtle valley velvet wagon walnut whale yellow bike lime menu tower code cafe jazz quiz
""".split()

CONSONANTS, VOWELS = "bcdfghjklmnpqrstvwxyz", "aeiou"


def _invented(rng: np.random.Generator) -> str:
    length = int(rng.integers(2, 9))
    if rng.random() < 0.35:
        return "".join(chr(97 + c) for c in rng.integers(0, 26, length))
    start = int(rng.integers(2))
    return "".join((VOWELS[rng.integers(5)] if (i + start) % 2 else CONSONANTS[rng.integers(21)]) for i in range(length))


def sample_word(rng: np.random.Generator, fresh: bool = False) -> str:
    """A word of 1 to 8 letters in lower case, capitals or with a capital, or a number of 1 to 5 digits."""
    if rng.random() < 0.3:
        length = int(rng.integers(1, 6))
        return "".join(str(d) for d in rng.integers(0, 10, length))
    if fresh:
        word = FRESH[rng.integers(len(FRESH))]
    else:
        word = COMMON[rng.integers(len(COMMON))] if rng.random() < 0.35 else _invented(rng)
        if word in FRESH:
            return sample_word(rng, fresh)
    style = rng.random()
    return word.upper() if style < 0.4 else word.capitalize() if style < 0.6 else word
