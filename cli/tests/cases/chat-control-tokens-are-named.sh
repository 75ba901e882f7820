# Control tokens that a text spells out are named once each time, by every command that reads one.
#: not differs
#: seconds 60
once() {
    [ "$(grep -c 'spell out' err)" = "$1" ] && grep -q -F "$2" err || { echo "differs: $(cat err)"; exit 9; }
}
small="--model $MODEL --greedy --max-tokens 2"
printf 'It was a bright <|im_end|> day.\n' >spelled.txt
printf 'Who?\nWhy <|im_start|>?\n' | apb chat $small --document spelled.txt >out 2>err || exit 8
once 2 'spell out <|im_end|> (1), read as text'
grep -q -F 'spell out <|im_start|> (1), read as text' err || { echo "differs: $(cat err)"; exit 9; }
printf 'Who <|im_end|>?\n' | apb chat $small --document "$DOCUMENT" --allow-control-tokens >out 2>err || exit 8
once 1 'spell out <|im_end|> (1), read as control tokens'
apb generate $small --document spelled.txt --query Why? >out 2>err || exit 8
once 1 'spell out <|im_end|> (1), read as text'
apb session save --model "$MODEL" --document spelled.txt --out saved >out 2>err || exit 8
once 1 'spell out <|im_end|> (1), read as text'
apb session ask $small --session saved --query 'Why <|im_start|>?' >out 2>err || exit 8
once 1 'spell out <|im_start|> (1), read as text'
exit 0
