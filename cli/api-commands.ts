// lag, check, gate and erase: what any client of the API could do.
import { setTimeout as delay } from 'node:timers/promises';
import { InvalidArgumentError, Option } from 'commander';
import type { Command } from 'commander';
import type { AbideProblem, PropagationLag, StoreLag } from '../client/client.ts';
import { CHANNELS } from '../suppression/scope.ts';
import { createAsk, NobodyAnswersError, withApi } from './api-client.ts';
import type { ApiOptions } from './api-client.ts';
import { identify, KIND_WORDS, SUBJECT_HELP, USUAL_CHANNEL } from './identify.ts';
import { EXIT, print, printJson, printTable } from './output.ts';

const seconds = (value: number | null): string => (value === null ? 'unknown' : `${value} s`);
const count = (store: StoreLag): string =>
  store.outstanding === null
    ? 'unknown'
    : `${store.outstanding}${store.outstanding_is_at_least === true ? '+' : ''}`;

/** `late, paused`: that nothing is carried to it by order explains all the rest. */
const statusOf = ({ status, backfill, paused }: StoreLag): string =>
  `${status}${backfill === null ? '' : ` (${backfill.remaining} to fill)`}${paused === true && status !== 'paused' ? ', paused' : ''}`;

function printLag(report: PropagationLag): void {
  print(
    `${report.as_of}  ${report.status}${report.uncovered.length > 0 ? `  uncovered: ${report.uncovered.join(', ')}` : ''}`,
  );
  printTable(
    ['STORE', 'STATUS', 'OLDEST', 'OUTSTANDING', 'QUARANTINED', 'ABSENT', 'P50', 'P99'],
    report.stores.map((store) => [
      store.required ? store.store : `${store.store} (optional)`,
      statusOf(store),
      seconds(store.oldest_outstanding_seconds),
      count(store),
      String(store.quarantined ?? 'unknown'),
      String(store.absent ?? 'unknown'),
      store.latency_ms.p50 === null ? '-' : `${store.latency_ms.p50} ms`,
      store.latency_ms.p99 === null ? '-' : `${store.latency_ms.p99} ms`,
    ]),
  );
  // As a column it made every table wider than a terminal is.
  for (const { store, last_error: error } of report.stores)
    if (error !== null) print(`last error of ${store}: ${error.code} at ${error.at}`);
  for (const source of report.sources) {
    const redriven = source.redriven > 0 ? `, ${source.redriven} re-driven` : '';
    const parked = (source.parked ?? 0) > 0 ? `, ${source.parked} records parked` : '';
    print(`source ${source.kind}: ${source.status}${redriven}${parked}`);
  }
}

/** Watching asks again in any case, so what is unknown is said at once: a database that is away is what one watches for. */
const WATCHING = {
  patience: { triesMax: 1, tryTimeoutMs: 10_000, timeoutMs: 10_000 },
  say: ({ status, retryable }: AbideProblem) =>
    retryable && status !== undefined
      ? new NobodyAnswersError(`The API answered ${status}: how far behind the stores are is not known.`)
      : undefined,
};

export function addLag(program: Command): void {
  withApi(program.command('lag'))
    .description('How far behind every store is: the age of the oldest opt-out that it has not confirmed')
    .option('--watch', 'repeat every second until interrupted')
    .addOption(
      new Option('--fail-on <status>', 'exit with 3 if it is late, or unknown, which is worse').choices([
        'late',
      ]),
    )
    .option('--json', 'print JSON')
    .action(async (options: ApiOptions & { watch?: boolean; failOn?: string; json?: boolean }) => {
      const ask = createAsk(options, options.watch === true ? WATCHING : {});
      const look = async (): Promise<void> => {
        const report = await ask((abide) => abide.lag());
        if (options.watch === true && process.stdout.isTTY) process.stdout.write('\x1b[2J\x1b[H');
        if (options.json === true) printJson(report);
        else printLag(report);
        if (options.failOn === 'late' && ['late', 'unknown'].includes(report.status))
          process.exitCode = EXIT.no;
      };
      if (options.watch !== true) return await look();
      for (;;) {
        await look().catch((error: unknown) => {
          // Somebody who watches wants to see it come back.
          if (!(error instanceof NobodyAnswersError)) throw error;
          print(error.message);
        });
        await delay(1_000);
      }
    });
}

/** What a reason asks of its reader. */
const REASONS: Readonly<Record<string, string>> = {
  invalid_item:
    ' (this is not an address, number, token or id that Abide can read, or the topic is not declared)',
  topic_required: ' (a topic of the channel is opted out of: give the topic of the message with --topic)',
};

export function addCheck(program: Command): void {
  withApi(program.command('check'))
    .description('May a message be sent? Exit code 0: yes. 3: no. No answer means do not send.')
    .argument('<subject>', SUBJECT_HELP)
    .addOption(
      new Option(
        '--channel <channel>',
        'how it would be sent (default: sms to a number, push to a push token, else email)',
      ).choices(CHANNELS),
    )
    .option('--topic <topic>', 'a topic of the channel')
    .option('--json', 'print JSON')
    .action(
      async (subject: string, options: ApiOptions & { channel?: string; topic?: string; json?: boolean }) => {
        const [kind, value] = identify(subject);
        const { channel = USUAL_CHANNEL[kind], topic } = options;
        const scope = topic === undefined ? channel : `${channel}/${topic}`;
        const item = { identifiers: [{ [kind]: value }], scope };
        const answer = await createAsk(options)((abide) => abide.checks.ask([item]));
        const [first] = answer.items;
        // This shows a slip: what was asked, as it was understood.
        const asked = `${scope} to this ${KIND_WORDS[kind]}`;
        if (options.json === true)
          printJson({ ...answer, items: answer.items.map((one) => ({ kind, scope, ...one })) });
        else if (first?.allowed === true) print(`may be sent: ${asked}`);
        else
          print(
            `do not send: ${asked}, ${first?.reason ?? 'no answer'}${REASONS[first?.reason ?? ''] ?? ''}${first?.effective_at == null ? '' : ` since ${first.effective_at}`}`,
          );
        if (first?.allowed !== true) process.exitCode = EXIT.no;
      },
    );
}

const toSeconds = (text: string): number => {
  if (/^\d{1,9}(\.\d{1,3})?$/.test(text)) return Number(text);
  throw new InvalidArgumentError('Give seconds, 0 or more, such as 30 or 2.5.');
};

export function addGate(program: Command): void {
  withApi(program.command('gate'))
    .description(
      "May a sender rely on a store's own copy now? Exit code 0: send. 3: hold. No answer means hold.",
    )
    .requiredOption('--store <name>', 'which store')
    .option(
      '--max-age <seconds>',
      "hold if an opt-out older than this has not arrived; never beyond the store's late_after_seconds",
      toSeconds,
    )
    .option('--json', 'print JSON')
    .action(async (options: ApiOptions & { store: string; maxAge?: number; json?: boolean }) => {
      const { store, maxAge } = options;
      const gate = await createAsk(options)((abide) => abide.gate(store, { maxAgeSeconds: maxAge }));
      if (options.json === true) printJson(gate);
      else
        print(
          gate.answer === 'send'
            ? `send (as of ${gate.as_of})`
            : `hold: ${gate.reason ?? 'no reason given'} (as of ${gate.as_of})`,
        );
      if (gate.answer !== 'send') process.exitCode = EXIT.no;
    });
}

const ERASED = {
  erased: 'erased',
  already_erased: 'was erased before',
  unknown: 'unknown: there is nothing to erase',
} as const;

export function addErase(program: Command): void {
  withApi(program.command('erase'))
    .description(
      "Erase a person's address for good, once every store holds the opt-out; they stay suppressed. Exit code 3: nothing to erase.",
    )
    .argument('<subject...>', `the person's identifiers: ${SUBJECT_HELP}`)
    .option('--json', 'print JSON')
    .action(async (subjects: readonly string[], options: ApiOptions & { json?: boolean }) => {
      const identifiers = subjects.map(identify).map(([kind, value]) => ({ [kind]: value }));
      const answer = await createAsk(options)((abide) => abide.subjects.erase(identifiers));
      if (options.json === true) printJson(answer);
      else
        for (const { kind, masked, outcome, suppressed, absent } of answer.identifiers) {
          const scopes = suppressed.map(({ scope }) => scope).join(', ');
          print(
            `${masked ?? KIND_WORDS[kind]}: ${ERASED[outcome]}${scopes === '' ? '' : `; it stays suppressed: ${scopes}`}`,
          );
          if (absent.length > 0)
            print(`  did not have it, and cannot be told should it appear there: ${absent.join(', ')}`);
        }
      if (answer.identifiers.every(({ outcome }) => outcome !== 'erased')) process.exitCode = EXIT.no;
    });
}
