# A reader that leaves is no success where the output is not stdout.
#: exit 1
#: stderr Broken pipe
mkfifo out
(head -c 1 out >o) &
for i in 1 2 3 4 5 6; do
    apb bench prefill --random-weights --model "$MODEL" --tokens 64 --runs 200 --decode 0 --log out --quiet >shown || exit $?
done
