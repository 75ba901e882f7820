# Nothing is drawn while a document is saved; random rows that are passed on are.
#: exit 2
#: stderr --seed changes nothing where nothing is random
#: stderr --compressor random
apb session save --model "$MODEL" --document "$DOCUMENT" --out drawn --method apb --ranks 2 --compressor random --seed 3 --quiet >out || exit 9
apb session save --model "$MODEL" --document "$DOCUMENT" --out saved --method apb --ranks 2 --seed 3
