// Does a store still hold what it acknowledged? Asked through the API; the store's worker reads everything back again.
import { setTimeout as delay } from 'node:timers/promises';
import { InvalidArgumentError } from 'commander';
import type { Command } from 'commander';
import type { AnswerOf, PropagationLag } from '../client/client.ts';
import { createAsk, withApi } from './api-client.ts';
import type { ApiOptions, Ask } from './api-client.ts';
import { environmentOf } from './installation.ts';
import { endProgress, EXIT, leave, print, printJson, printProgress } from './output.ts';

type ReconciliationPasses = AnswerOf<'GET /v1/stores/{name}/reconciliation'>;
type ReconciliationPass = ReconciliationPasses['passes'][number];
type Listing = NonNullable<ReconciliationPasses['listing']>;

type Options = ApiOptions & {
  readonly store: string;
  readonly wait: boolean;
  readonly json?: boolean;
  readonly afterRestore?: boolean;
  readonly dryRun?: boolean;
};

const LOOK_MS = 250;
const STILL_MS = 3_000;
const AT_ONCE = 16;

const differences = (pass: ReconciliationPass): number =>
  pass.missing + pass.older + pass.resurrected + pass.ahead;

function printPass(pass: ReconciliationPass): void {
  print(`${pass.compared} subjects read back again, ${differences(pass)} differ`);
  const found = [
    [pass.missing, 'not held at all'],
    [pass.older, 'held in an older version: the store went back in time'],
    [pass.resurrected, 'held and lifted again by somebody else, such as an import'],
    [pass.ahead, 'held in a version that the ledger never gave'],
  ] as const;
  for (const [count, what] of found) if (count > 0) print(`  ${count} ${what}`);
  if (pass.own > 0)
    print(
      `  ${pass.own} for which the store by itself suppresses more than was decided: ` +
        (pass.recorded === undefined ? 'left as it is' : `${pass.recorded} recorded as opt-outs`),
    );
}

function printListing({ listed, recorded, unread }: Listing): void {
  print(`${listed} listed by the store, ${recorded} recorded as opt-outs, of people whom only it knew`);
  if (unread > 0) print(`  ${unread} of them are not an address of their kind`);
}

export function addReconcile(program: Command): void {
  withApi(program.command('reconcile'))
    .description(
      'Reads back everything that a store acknowledged; what it no longer holds is carried to it again. Exit code 3: something differed.',
    )
    .option('--config <file>', 'abide.yaml (ABIDE_CONFIG; default ./abide.yaml, if there is one)')
    .requiredOption('--store <name>', 'the store')
    .option('--no-wait', 'ask for it and do not wait')
    .option(
      '--after-restore',
      'the other way round: what the store suppresses and the ledger does not know is recorded as opt-outs',
    )
    .option('--dry-run', 'with --after-restore: count, and record nothing')
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      `
It also runs by itself, a minute after the last pass, at most 500 subjects a
second. If it found something, this command waits until the store holds that
again. If you interrupt the command, the pass goes on.`,
    )
    .action(async (options: Options) => {
      if (options.dryRun === true && options.afterRestore !== true)
        throw new InvalidArgumentError(
          '--dry-run goes with --after-restore: a pass without it carries what differs to the store again',
        );
      const ask = createAsk(options);
      if (options.afterRestore === true) return await adopt(ask, options).then(leave);
      const path = { name: options.store };
      const { id } = await ask((abide) => abide.call('POST /v1/stores/{name}/reconciliation', { path }));
      if (!options.wait) {
        if (options.json === true) printJson({ id });
        else print(`pass ${id} was asked for`);
        return;
      }
      const look = (limit: number): Promise<ReconciliationPasses> =>
        ask((abide) => abide.call('GET /v1/stores/{name}/reconciliation', { path, query: { limit } }));
      const watch = createWatch(options.store, () => ask((abide) => abide.lag()));
      const pass = await untilFinished(id, async () => (await look(10)).passes, watch);
      const listing = await untilListed(() => look(1), watch);
      const outcome =
        differences(pass) === 0
          ? undefined
          : await untilHeld(options.store, pass, () => ask((abide) => abide.lag()));
      endProgress();
      if (options.json === true) printJson(listing === undefined ? pass : { ...pass, listing });
      else {
        printPass(pass);
        if (listing !== undefined) printListing(listing);
        if (outcome !== undefined) print(outcome);
      }
      if (differences(pass) > 0) process.exitCode = EXIT.no;
    });
}

/** Told at each look how much was done so far. */
type Watch = (done: number) => Promise<void>;

/** Says what a store is waited for if nothing moved for some seconds: once, and again if the reason changes. */
function createWatch(store: string, look: () => Promise<PropagationLag>): Watch {
  let [last, since, said] = [-1, performance.now(), ''];
  return async (done) => {
    if (done !== last) [last, since] = [done, performance.now()];
    if (performance.now() - since < STILL_MS) return;
    since = performance.now();
    const lag = (await look()).stores.find((one) => one.store === store);
    const reason = `${lag?.status ?? 'nothing of it'}, ${lag?.last_error?.code ?? 'no error so far'}`;
    if (reason === said) return;
    said = reason;
    endProgress();
    process.stderr.write(
      `nothing moves: waiting for ${store}. The lag says ${reason}; the log of its worker says more. ` +
        'It goes on by itself, even if you interrupt this.\n',
    );
  };
}

async function untilFinished(
  id: number,
  look: () => Promise<readonly ReconciliationPass[]>,
  watch: Watch,
): Promise<ReconciliationPass> {
  for (;;) {
    const passes = await look();
    const pass = passes.find((one) => one.id === id);
    if (pass?.finished_at != null) return pass;
    if (pass === undefined)
      throw new Error('The pass was ended by another one, or by a new generation of the store: ask again.');
    printProgress(`${pass.compared} subjects read back again, ${differences(pass)} differ so far`);
    await watch(pass.compared);
    await delay(LOOK_MS);
  }
}

/** The store's own list, if what it suppresses by itself is recorded; asking for the pass asked for that as well. */
async function untilListed(
  look: () => Promise<ReconciliationPasses>,
  watch: Watch,
): Promise<Listing | undefined> {
  for (;;) {
    const { listing } = await look();
    if (listing === undefined || listing.finished_at !== null) return listing;
    printProgress(`${listing.listed} listed by the store, ${listing.recorded} recorded as opt-outs so far`);
    await watch(listing.listed);
    await delay(LOOK_MS);
  }
}

/** What a pass found is outstanding until it is read back; bounded, since a store may be away. Says how it ended. */
async function untilHeld(
  store: string,
  pass: ReconciliationPass,
  look: () => Promise<PropagationLag>,
): Promise<string> {
  for (let tries = 0; tries < 120; tries += 1) {
    const report = await look();
    const lag = report.stores.find((one) => one.store === store);
    // An answer is kept for a moment: one of before the pass ended does not know what it found.
    if (lag?.drift === 0 && report.as_of > (pass.finished_at ?? ''))
      return lag.absent === 0
        ? 'all of it is held again'
        : 'all of it is held again, unless somebody is no longer there: see `abide quarantine list --kind absent`';
    printProgress(`${lag?.drift ?? 'unknown'} carried to the store again`);
    await delay(LOOK_MS);
  }
  return 'some of it is not held: see `abide lag` and `abide quarantine list`';
}

/** Records what only the store holds: the opt-outs that a restored ledger lost, or that the store took by itself. */
async function adopt(ask: Ask, options: Options): Promise<void> {
  const { eachSuppressed } = await import('../processes/find-unknown.ts');
  const counts = { held: 0, known: 0, recorded: 0, others: 0, unread: 0 };
  await eachSuppressed(environmentOf(options), options.store, async (page) => {
    const items = page.flatMap(({ kind, value, channels, others }) => {
      counts.others += others;
      return channels.map((scope) => ({ identifiers: [{ [kind]: value }], scope }));
    });
    const answer = await ask((abide) => abide.checks.ask(items));
    // If the ledger knows a topic of the channel as refused and not the channel, the answer is no as well.
    const unknown = items.filter((_, n) => {
      const { allowed, reason } = answer.items[n]!;
      return allowed || reason === 'topic_required';
    });
    const unread = answer.items.filter(({ reason }) => reason === 'invalid_item').length;
    counts.held += items.length;
    counts.known += items.length - unknown.length - unread;
    counts.unread += unread;
    while (unknown.length > 0) {
      const now = unknown.splice(0, AT_ONCE);
      counts.recorded += now.length;
      if (options.dryRun === true) continue;
      await Promise.all(
        now.map(async ({ identifiers, scope }) => {
          const note = `found in store ${options.store} after a restore`;
          const optOut = { identifiers, scopes: [scope], reason: 'other', note } as const;
          await ask((abide) => abide.optOuts.create(optOut));
        }),
      );
    }
    printProgress(`${counts.held} suppressions of ${options.store} compared, ${counts.recorded} recorded`);
  });
  endProgress();
  if (options.json === true) return printJson(counts);
  print(`${counts.held} suppressions of ${options.store}: ${counts.known} known to the ledger`);
  print(`${counts.recorded} ${options.dryRun === true ? 'would be recorded' : 'recorded as opt-outs'}`);
  if (counts.unread > 0) print(`${counts.unread} left out: not an address of its kind`);
  if (counts.others > 0) print(`${counts.others} of topics and purposes left out: only channels are adopted`);
}
