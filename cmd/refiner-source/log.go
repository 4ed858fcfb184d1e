package main

import (
	"os"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/term"
)

// logFlags are those of every command that runs until it is ended.
type logFlags struct{ level string }

func addLogFlags(cmd *cobra.Command) *logFlags {
	f := new(logFlags)
	cmd.Flags().StringVar(&f.level, "log-level", "info", "what is logged on stderr: debug, info, warn or error")
	return f
}

// logger logs to stderr: for people on a terminal, JSON otherwise.
func (f *logFlags) logger() (*zap.Logger, error) {
	level, err := zapcore.ParseLevel(f.level)
	if err != nil {
		return nil, usagef("--log-level is %q; give debug, info, warn or error", f.level)
	}
	config := zap.NewProductionEncoderConfig()
	config.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	config.EncodeDuration = zapcore.StringDurationEncoder
	encoder := zapcore.NewJSONEncoder(config)
	if term.IsTerminal(int(os.Stderr.Fd())) {
		config.EncodeTime = zapcore.TimeEncoderOfLayout(clearLine + "15:04:05.000") // a progress that stands there gives way
		config.EncodeLevel = zapcore.CapitalColorLevelEncoder
		encoder = zapcore.NewConsoleEncoder(config)
	}
	log := zap.New(zapcore.NewCore(encoder, zapcore.Lock(os.Stderr), level))
	// net/http says some things through the standard logger, for want of another.
	zap.RedirectStdLog(log.Named("http"))
	return log, nil
}
