# The automaton that finds them would take gibibytes and minutes.
#: exit 2
#: seconds 20
#: mebibytes 2000
#: stderr expected at most 131072 added tokens of 2 MiB together, found 4003
python3 "$TOOLS/model.py" added changed 4000 10000
apb generate --model changed --document "$DOCUMENT" --query Why?
