# The document fits; what follows it does not. The number that is named fits, and one more does not.
#: exit 5
#: stderr a document of 1000 tokens fits, but not with the 99999999999 that follow it
#: not weights
plan() { apb plan --model "$MODEL" --tokens 1000 --device h100 --following "$1"; }
plan 99999999999 >out 2>err
code=$?
cat err >&2
most=$(sed -n 's/.*the most that fits is --following \([0-9]*\)$/\1/p' err)
plan "$most" >out 2>>rest || exit 9
plan $((most + 1)) >out 2>>rest
[ $? = 5 ] || exit 8
plan 18446744073709551615 >out 2>err
[ $? = 5 ] && grep -q -e "--following $most\$" err || exit 7
exit $code
