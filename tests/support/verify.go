// Judges checkpoints and proofs with the original implementation of signed notes and tiled logs.
// Standard input: one JSON case per line. Standard output: one line per case, "ok" or the error.
package main

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type testCase struct {
	Vkey, Note  string
	Entry       []byte
	Index       int64
	Proof       [][]byte
	OldSize     int64
	OldRoot     []byte
	Consistency [][]byte
}

func hashes(items [][]byte) []tlog.Hash {
	found := make([]tlog.Hash, len(items))
	for at, item := range items {
		copy(found[at][:], item)
	}
	return found
}

func judge(c testCase) error {
	verifier, err := note.NewVerifier(c.Vkey)
	if err != nil {
		return err
	}
	opened, err := note.Open([]byte(c.Note), note.VerifierList(verifier))
	if err != nil {
		return err
	}
	lines := strings.Split(opened.Text, "\n")
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		return err
	}
	decoded, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil {
		return err
	}
	root := hashes([][]byte{decoded})[0]
	if err := tlog.CheckRecord(hashes(c.Proof), size, root, c.Index, tlog.RecordHash(c.Entry)); err != nil {
		return err
	}
	return tlog.CheckTree(hashes(c.Consistency), size, root, c.OldSize, hashes([][]byte{c.OldRoot})[0])
}

func main() {
	scanner := bufio.NewScanner(os.Stdin)
	scanner.Buffer(nil, 1<<26)
	for scanner.Scan() {
		var c testCase
		if err := json.Unmarshal(scanner.Bytes(), &c); err != nil {
			fmt.Println("unreadable:", err)
			continue
		}
		if err := judge(c); err != nil {
			fmt.Println(err)
		} else {
			fmt.Println("ok")
		}
	}
}
