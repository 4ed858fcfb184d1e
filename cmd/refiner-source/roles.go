package main

import (
	"errors"
	"math"
	"os"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"

	"refinersource/internal/app"
	"refinersource/internal/console"
)

// roleFlags are those that ingress and worker share.
type roleFlags struct {
	kafka         *kafkaFlags
	log           *logFlags
	tenants       string
	adminListen   string
	tenantMetrics bool
}

func addRoleFlags(cmd *cobra.Command) *roleFlags {
	f := &roleFlags{kafka: addKafkaFlags(cmd), log: addLogFlags(cmd)}
	cmd.Flags().StringVar(&f.tenants, "tenants", "", "tenants file (YAML); a change is picked up without a restart")
	cmd.Flags().StringVar(&f.adminListen, "admin-listen", "127.0.0.1:8081", "address of health, metrics and the live page")
	cmd.Flags().BoolVar(&f.tenantMetrics, "tenant-metrics", true, "a label per tenant in the metrics; false for very many tenants")
	return f
}

// run runs the roles of o until the command's context ends.
func (f *roleFlags) run(cmd *cobra.Command, role string, o app.Options) error {
	if f.tenants == "" {
		return usagef("--tenants is missing; give the tenants file")
	}
	k, topics, err := f.kafka.resolve()
	if err != nil {
		return err
	}
	log, err := f.log.logger()
	if err != nil {
		return err
	}
	o.Brokers, o.TLS, o.Credentials, o.Topics = k.Brokers, k.TLS, k.Credentials, topics
	o.TenantsFile, o.Env = f.tenants, os.LookupEnv
	o.AdminListen = f.adminListen
	o.NoTenantMetrics = !f.tenantMetrics
	o.Console = console.Options{Role: role, Version: version}
	o.Logger = log
	a, err := app.New(o)
	if err != nil {
		return usageError{err}
	}
	return configured(a.Run(cmd.Context()))
}

// configured makes the error of an app that cannot start as it is configured a
// usageError that names the flag.
func configured(err error) error {
	e, ok := errors.AsType[*app.ConfigError](err)
	if !ok {
		return err
	}
	flag := "brokers"
	switch e.Option {
	case app.OptionBrokers:
	case app.OptionTenantsFile:
		flag = "tenants"
	case app.OptionAdminListen:
		flag = "admin-listen"
	case app.OptionListen:
		flag = "listen"
	}
	return usagef("--%s: %w", flag, err)
}

// Bounds of --session-timeout: those of Kafka's brokers by default, less at the top.
const (
	minSessionTimeout = 6 * time.Second
	maxSessionTimeout = 5 * time.Minute
)

func newIngress() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "ingress",
		Short:   "Take in events over HTTP and publish them to Kafka",
		Example: "  refiner-source ingress --brokers kafka:9092 --tenants tenants.yaml --listen :8080",
		Args:    cobra.NoArgs,
	}
	f := addRoleFlags(cmd)
	listen := cmd.Flags().String("listen", "127.0.0.1:8080", "address for senders")
	cmd.RunE = work(func(cmd *cobra.Command, _ []string) error {
		collect(os.LookupEnv, ingressGCPercent, ingressMemoryLimit)
		return f.run(cmd, "ingress", app.Options{Ingress: &app.IngressOptions{Listen: *listen}})
	})
	return cmd
}

// What the roles tell Go's garbage collector.
//
// A collection costs an ingress as much as it has connections, since it looks through
// their stacks, and hardly anything outlives its request: it trades memory for time, up to
// a limit of nearly twice what may live, the bodies in flight and all connections.
//
// A worker makes requests as large as the events that it holds are many. It is better off
// with more of these and less garbage between two collections.
const (
	ingressGCPercent   = 400
	ingressMemoryLimit = 256 << 20
	workerGCPercent    = 70
)

// collect has garbage collected at so many percent and within a limit, unless GOGC and
// GOMEMLIMIT say otherwise.
func collect(env func(string) (string, bool), percent int, limit int64) {
	if _, ok := env("GOGC"); !ok {
		debug.SetGCPercent(percent)
	}
	if _, ok := env("GOMEMLIMIT"); !ok {
		debug.SetMemoryLimit(limit)
	}
}

// addReceiptsFlag adds the flag of those who deliver.
func addReceiptsFlag(cmd *cobra.Command) *bool {
	return cmd.Flags().Bool("receipts", true, "write a receipt for every finished event, for trace, audit and replay --diff; while that fails, events wait")
}

func newWorker() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "worker",
		Short:   "Deliver events to Segment as one member of the consumer group",
		Long:    "Deliver events to Segment as one member of the consumer group. Start more of them for more load. A new group starts at the earliest event.",
		Example: "  refiner-source worker --brokers kafka:9092 --tenants tenants.yaml",
		Args:    cobra.NoArgs,
	}
	f := addRoleFlags(cmd)
	group := cmd.Flags().String("group", app.DefaultGroup, "consumer group")
	session := cmd.Flags().Duration("session-timeout", app.DefaultSessionTimeout, "after how long without a word a worker is taken for dead, and others take over; 6s to 5m, as the brokers allow")
	accept := cmd.Flags().Int("accept-partitions", 0, "go on although the topic has got this many partitions while events were waiting; their users' later events may overtake them")
	from := cmd.Flags().String("from", "", "earliest: begin at the start of the log where the group has no commits although it was worked on before; all that the log still has is sent again")
	receipts := addReceiptsFlag(cmd)
	cmd.RunE = work(func(cmd *cobra.Command, _ []string) error {
		if *from != "" && *from != "earliest" {
			return usagef("--from is %q; give earliest, or use `offsets reset` to say where to go on", *from)
		}
		if *session < minSessionTimeout || *session > maxSessionTimeout {
			return usagef("--session-timeout is %v; give %v to %v", *session, minSessionTimeout, maxSessionTimeout)
		}
		if *accept < 0 {
			return usagef("--accept-partitions is %d; give the topic's number of partitions", *accept)
		}
		collect(os.LookupEnv, workerGCPercent, math.MaxInt64)
		return f.run(cmd, "worker", app.Options{Worker: &app.WorkerOptions{
			Group:            *group,
			GroupOptions:     app.SessionOptions(*session),
			AcceptPartitions: *accept,
			Anew:             *from != "",
			NoReceipts:       !*receipts,
		}})
	})
	return cmd
}
