package main

import "github.com/spf13/cobra"

func newIngress() *cobra.Command { return &cobra.Command{Use: "ingress"} }
