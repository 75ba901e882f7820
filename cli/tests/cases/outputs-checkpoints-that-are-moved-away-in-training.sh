#: exit 1
#: stderr .bpk: cannot be written
. "$TOOLS/train.sh"
mv checkpoint ../gone
wait $training
