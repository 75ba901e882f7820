# What nothing that is measured has a use for.
#: not did not refuse
refused() {
    named=$1 && shift
    apb bench prefill --model "$MODEL" --tokens 64 --runs 1 "$@" >out 2>err
    [ $? = 2 ] && grep -q -e "$named" err || { echo "did not refuse $*: $(cat err)"; exit 9; }
}
refused '--seed changes nothing where nothing is random' --seed 0
refused '--seed changes nothing' --methods full,apb --seed 0
refused '--seed changes nothing' --methods apb-random --passing 0 --seed 0
refused '--query changes nothing without an anchor' --methods full,ring --query 'What is this text about?'
refused '--bandwidth changes nothing.*ring, ulysses and apb' --bandwidth 100
refused '--bandwidth changes nothing' --methods full,star --bandwidth 100
refused '--bandwidth changes nothing' --method apb --passing 0 --bandwidth 100
refused '--decode changes nothing with --only-rank' --method apb --only-rank 1 --decode 64
refused '--dequantize changes nothing for --random-weights' --random-weights --dequantize
measured() { apb bench prefill --model "$MODEL" --document "$DOCUMENT" --tokens 64,64 --runs 1 --decode 0 --ranks 2 --json "$@" >out 2>err || { cat err; exit 8; }; }
measured --methods full,apb-random --seed 3 --query Why? --bandwidth 1
[ "$(grep -o '"method":"full"' out | wc -l)" = 2 ] || exit 7
measured --method apb --only-rank 1
