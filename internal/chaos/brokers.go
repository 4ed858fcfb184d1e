package chaos

import (
	"context"
	"fmt"
	"time"

	"refinersource/internal/checker"
)

// brokerStop is how long a broker may take to end in order.
const brokerStop = time.Minute

// killBrokers ends brokers with SIGKILL and starts them again on their data. It
// returns when all replicas are in sync.
func (j *injector) killBrokers(ctx context.Context, in Injection, f *checker.Fault) error {
	return j.loseBrokers(ctx, in, f, func(victims []*Broker) error {
		for _, b := range victims {
			b.process.signal(sigKill)
		}
		return nil
	})
}

// fillDisk has every write of brokers fail, as on a disk that is full: their log fails, and
// they end by themselves. They come back when there is room.
func (j *injector) fillDisk(ctx context.Context, in Injection, f *checker.Fault) error {
	return j.loseBrokers(ctx, in, f, func(victims []*Broker) error {
		for _, b := range victims {
			if err := letWriteNothing(b.process.cmd.Process); err != nil {
				return fmt.Errorf("fill the disk of broker %d: %w", b.ID, err)
			}
		}
		for _, b := range victims {
			select {
			case <-b.process.done:
			case <-time.After(brokerStop):
				j.problem("broker %d goes on although it can write nothing", b.ID)
			}
		}
		return nil
	})
}

// loseBrokers has brokers end, and starts them again on their data. It returns when all
// replicas are in sync.
func (j *injector) loseBrokers(ctx context.Context, in Injection, f *checker.Fault, end func([]*Broker) error) error {
	defer j.brokersAreStruck()()
	victims, err := j.victims(ctx, in)
	if err != nil {
		return err
	}
	for _, b := range victims {
		f.Target += fmt.Sprintf("broker-%d ", b.ID)
	}
	if err := end(victims); err != nil {
		return err
	}
	for _, b := range victims {
		j.cluster.kill(b)
	}
	pause(ctx, in.For)
	if err := j.cluster.reviveAll(ctx, victims); err != nil {
		return err
	}
	return j.awaitInSync(ctx)
}

// brokersAreStruck says that they are, until what it returns is called.
func (j *injector) brokersAreStruck() (settled func()) {
	j.mu.Lock()
	j.unsettled++
	j.mu.Unlock()
	return func() {
		j.mu.Lock()
		j.unsettled--
		j.lastBroker = time.Now()
		j.mu.Unlock()
	}
}

// awaitInSync waits until all replicas are in sync.
func (j *injector) awaitInSync(ctx context.Context) error {
	settle, cancel := context.WithTimeout(ctx, brokerStart)
	defer cancel()
	return await(settle, "the brokers to be in sync again", time.Second, func(ctx context.Context) bool {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		_, behind, err := j.cluster.leaders(ctx, j.events())
		_, behindOffsets, err2 := j.cluster.leaders(ctx, offsetsTopic)
		return err == nil && err2 == nil && behind+behindOffsets == 0
	})
}

// restartBrokers ends each broker in turn as a roll-out does, and starts it again
// when all replicas of the one before are in sync.
func (j *injector) restartBrokers(ctx context.Context, in Injection, f *checker.Fault) error {
	f.Target = "each broker in turn"
	defer j.brokersAreStruck()()
	for _, b := range j.cluster.Brokers {
		b.process.signal(sigTerm)
		select {
		case <-b.process.done:
		case <-time.After(brokerStop):
			j.logger("broker %d does not end by SIGTERM and is killed", b.ID)
		}
		j.cluster.kill(b)
		pause(ctx, in.For/time.Duration(len(j.cluster.Brokers)))
		if err := j.cluster.revive(ctx, b); err != nil {
			return err
		}
		if err := j.awaitInSync(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (j *injector) victims(ctx context.Context, in Injection) ([]*Broker, error) {
	brokers := j.cluster.Brokers
	switch in.Fault {
	case "F11":
		n := in.Target % len(brokers)
		return []*Broker{brokers[n], brokers[(n+1)%len(brokers)]}, nil
	case "F12":
		return brokers, nil
	case "F13":
		b, err := j.cluster.coordinator(ctx, j.group)
		return []*Broker{b}, err
	case "F14":
		b, err := j.cluster.controller(ctx)
		return []*Broker{b}, err
	default:
		leads, _, err := j.cluster.leaders(ctx, j.events())
		most := brokers[0]
		for _, b := range brokers {
			if leads[b.ID] > leads[most.ID] {
				most = b
			}
		}
		return []*Broker{most}, err
	}
}
