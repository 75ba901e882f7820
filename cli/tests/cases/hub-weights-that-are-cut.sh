#: stderr model.safetensors: expected a file of safetensors, found something else
. "$TOOLS/hub.sh"
fetch_helps_later 'cut:model.safetensors=100000'
