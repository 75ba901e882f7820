# A length that is too short for a prompt is named as it was given, also where the template alone is longer.
#: exit 2
#: stderr --tokens: niah: 5 tokens are too few
apb eval niah --model "$MODEL" --tokens 5 --samples 1 --methods full
