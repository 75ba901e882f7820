# Where no row is passed on nothing chooses them, and the anchor needs no query.
#: not did not refuse
refused() {
    named=$1 && shift
    apb "$@" >out 2>err
    [ $? = 2 ] && grep -q -e "$named changes nothing with --passing 0" err || { echo "did not refuse $*: $(cat err)"; exit 9; }
}
generate() { apb generate --model "$MODEL" --document "$DOCUMENT" --query Why? --method apb --ranks 2 --passing 0 --max-tokens 2 "$@"; }
for more in '--compressor random' '--compressor query-aware' "--heads $HEADS"; do
    refused "${more%% *}" generate --model "$MODEL" --document "$DOCUMENT" --query Why? --method apb --passing 0 $more
    refused "${more%% *}" bench prefill --model "$MODEL" --document "$DOCUMENT" --tokens 64 --method apb --passing 0 $more
done
generate >out || exit 8
generate --no-anchor-query >out || exit 7
apb session save --model "$MODEL" --document "$DOCUMENT" --out saved --method apb --ranks 2 --passing 0 --quiet >out || exit 6
refused --compressor session save --model "$MODEL" --document "$DOCUMENT" --out other --method apb --passing 0 --compressor random
