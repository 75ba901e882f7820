#: exit 2
#: stderr out
mkdir out
apb convert-heads "$HEADS" out
