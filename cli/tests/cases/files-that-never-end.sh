# A pipe in a model's folder is no file, and is not waited for.
#: exit 2
#: seconds 20
python3 "$TOOLS/model.py" copy changed
rm changed/model.safetensors
mkfifo changed/model.safetensors.index.json
apb generate --model changed --document "$DOCUMENT" --query Why?
