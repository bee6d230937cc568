// What `npm start` prints: a line per decision, `a••@e••.com recorded, crm verified +4 ms`. Masked, bounded, and silent about what
// a terminal could not show anyway: beyond 20 lines a second it counts.
import { rememberLast } from '../suppression/remember-last.ts';
import { mask } from '../suppression/subject.ts';
import type { Settled } from '../ledger/acknowledge.ts';
import type { RecordedDecision } from '../ledger/contract/opt-outs.ts';

const LINES_PER_SECOND = 20;
const REMEMBERED = 1_000;

export type DecisionLines = {
  recorded(decision: RecordedDecision): void;
  settled(store: string, settled: readonly Settled[]): void;
};

export function createDecisionLines(print: (line: string) => void): DecisionLines {
  const masked = rememberLast<number, string>(REMEMBERED);
  let second = 0;
  let printed = 0;
  let left = 0;

  function line(text: string): void {
    const now = Math.floor(performance.now() / 1000);
    if (now !== second) {
      if (left > 0) print(`… and ${left} more`);
      second = now;
      printed = 0;
      left = 0;
    }
    if (printed < LINES_PER_SECOND) print(text);
    else left += 1;
    printed += 1;
  }

  return {
    recorded: ({ seq, subject }) => {
      masked.set(seq, mask(subject));
    },
    settled: (store, settled) => {
      for (const { seq, outcome, latencyMs, carriedBy } of settled) {
        const who = masked.get(seq);
        if (who !== undefined && carriedBy !== 'backfill')
          line(`${who} recorded, ${store} ${outcome} +${Math.round(latencyMs)} ms`);
      }
    },
  };
}
