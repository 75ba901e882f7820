#: stderr --dequantize changes nothing
apb generate --model "$MODEL" --document "$DOCUMENT" --query Why? --dequantize --max-tokens 2 >out
