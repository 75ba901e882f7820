#: exit 2
#: stderr --system changes nothing
#: stderr apb session save
apb session save --model "$MODEL" --document "$DOCUMENT" --out saved --system 'Be brief.' --quiet >out || exit 9
apb session ask --model "$MODEL" --session saved --query Why? --system 'Be brief.'
