# An answer of more tokens than any memory holds is refused, with the most that fits.
#: exit 5
#: stderr the largest that fits is --max-tokens
apb generate --model "$MODEL" --document "$DOCUMENT" --query Why? --allow-long --max-tokens 1152921504606846976
