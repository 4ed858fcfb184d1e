package main

import "github.com/spf13/cobra"

func newMemory() *cobra.Command { return &cobra.Command{Use: "memory"} }
