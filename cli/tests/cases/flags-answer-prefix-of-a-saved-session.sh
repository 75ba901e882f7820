#: exit 2
#: stderr --answer-prefix changes nothing
#: stderr apb session ask
apb session save --model "$MODEL" --document "$DOCUMENT" --out saved --answer-prefix 'It was'
