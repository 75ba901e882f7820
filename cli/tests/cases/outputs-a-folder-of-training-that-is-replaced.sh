#: exit 1
#: stderr cannot be written
. "$TOOLS/train.sh"
mv train ../gone
: >train
wait $training
