#: exit 2
#: stderr \nforged
cat > c.json <<'JSON'
{"format": "x\nforged", "method": "full", "generate": 1, "query": [1], "document": [1]}
JSON
apb trace --case c.json --model "$MODEL" --out got.safetensors
