# What the session's method has no use for is refused, also with the value that the session has.
#: not did not refuse
refused() {
    named=$1 && shift
    apb session ask --model "$MODEL" --session saved --query Why? --greedy --max-tokens 2 "$@" >out 2>err
    [ $? = 2 ] && grep -q -e "$named" err || { echo "did not refuse $*: $(cat err)"; exit 9; }
}
apb session save --model "$MODEL" --document "$DOCUMENT" --out saved --quiet >out || exit 8
refused 'saved with full; it is for apb: leave --anchor out' --anchor 0
refused 'saved with full; it is for apb: leave --passing out' --passing 0
refused 'saved with full; it is for apb: leave --compressor out' --compressor query-aware
refused 'saved with full; it is for ring: leave --ring-layout out' --ring-layout zigzag
refused 'has ranks 1, asked for is 2' --ranks 2
apb session ask --model "$MODEL" --session saved --query Why? --method full --ranks 1 --greedy --max-tokens 2 >out || exit 7
apb session save --model "$MODEL" --document "$DOCUMENT" --out saved --method star --ranks 2 --force --quiet >out || exit 6
refused 'saved with star; it is for apb: leave --anchor out' --anchor 529
apb session save --model "$MODEL" --document "$DOCUMENT" --out saved --method apb --ranks 2 --anchor 100 --anchor-query Why? --force --quiet >out || exit 5
refused 'saved with apb; it is for ring' --ring-layout zigzag
apb session ask --model "$MODEL" --session saved --query Why? --ranks 2 --anchor 100 --greedy --max-tokens 2 >out
