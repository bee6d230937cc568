// One run: an Abide of its own, a scenario carried out on it, and the check of what is left once everything is well again.
import { setTimeout as delay } from 'node:timers/promises';
import { runAbide } from '../harness/abide.ts';
import { startTcpProxy } from '../harness/tcp-proxy.ts';
import { STORES, speakWith } from '../pipeline/system.ts';
import type { Deployment } from '../pipeline/system.ts';
import { watchTruth } from '../pipeline/truth.ts';
import { check, dumpLedger, stillPromised } from './checker.ts';
import type { Evidence, Finding } from './checker.ts';
import { createClients } from './clients.ts';
import { createFaults } from './faults.ts';
import type { Scenario, Source } from './scenario.ts';
import { startTarget } from './target.ts';
import type { Target } from './target.ts';

export type RunResult = {
  readonly scenario: Scenario;
  readonly findings: readonly Finding[];
  /** Requests that were answered 2xx. */
  readonly confirmed: number;
  readonly people: number;
  readonly samples: number;
  readonly telling: number;
  /** From the end of the last fault until the lag was ok and nothing outstanding; undefined: not within the time allowed. */
  readonly recoveryMs: number | undefined;
  /** What passes over the stores found and put right after that: what stores had lost without a sign of it. */
  readonly drift: number;
  readonly evidence: Evidence;
  /** What happened when, and what Abide printed. */
  readonly log: readonly string[];
  readonly output: string;
};

const ANSWER_MS = 60_000;
export const RECOVERY_MS = 90_000;

/** Waits for a condition; false if it did not come true in time. */
async function within(ms: number, signal: AbortSignal, holds: () => Promise<boolean>): Promise<boolean> {
  for (const end = performance.now() + ms; performance.now() < end;) {
    signal.throwIfAborted();
    if (await holds().catch(() => false)) return true;
    await delay(20);
  }
  return false;
}

/** Whether every store is ok, nothing is outstanding, and none of them is known to have drifted. */
export const isWell = async ({ lag }: Pick<Deployment, 'lag'>): Promise<boolean> =>
  (await lag()).stores.every(
    ({ status, outstanding, drift, backfill }) =>
      status === 'ok' && outstanding === 0 && drift === 0 && backfill === null,
  );

/** A whole pass over every store, begun now. Gives how many differences they found; undefined if one did not end in time. */
export async function reconcileAll(
  { ask }: Pick<Deployment, 'ask'>,
  ms: number,
  signal: AbortSignal,
): Promise<number | undefined> {
  type Pass = Record<'id' | 'missing' | 'older' | 'resurrected' | 'ahead', number> & {
    finished_at: string | null;
  };
  const found = await Promise.all(
    STORES.map(async (store) => {
      const path = `/v1/stores/${store}/reconciliation`;
      let id: number | undefined;
      let differences: number | undefined;
      const done = await within(ms, signal, async () => {
        if (id === undefined) {
          const { status, text } = await ask('POST', path, {});
          if (status === 202) ({ id } = JSON.parse(text) as Pass);
          return false;
        }
        const { passes } = JSON.parse((await ask('GET', `${path}?limit=100`)).text) as { passes: Pass[] };
        const pass = passes.find((one) => one.id === id);
        // A store that became another one meanwhile is filled up, and then compared anew.
        if (pass === undefined) id = undefined;
        if (pass === undefined || pass.finished_at === null) return false;
        differences = pass.missing + pass.older + pass.resurrected + pass.ahead;
        return true;
      });
      return done ? differences : undefined;
    }),
  );
  return found.reduce<number | undefined>(
    (sum, one) => (sum === undefined || one === undefined ? undefined : sum + one),
    0,
  );
}

/** What the stores and the ledger hold, read past Abide, after asking it once more what it claims. */
export async function gatherEvidence(
  system: Pick<Target, 'lag' | 'stores'> & { readonly abide: Pick<Target['abide'], 'connect'> },
  told: Pick<Evidence, 'answered' | 'unanswered' | 'lies'>,
): Promise<Evidence> {
  const lag = await system.lag().catch(() => undefined);
  const calledOk = (lag?.stores ?? [])
    .filter(({ status, outstanding, backfill }) => status === 'ok' && outstanding === 0 && backfill === null)
    .map(({ store }) => store);
  const stores = await Promise.all(
    STORES.map(async (store) => [store, await system.stores[store].contents()] as const),
  );
  const client = await system.abide.connect();
  try {
    return { ...told, calledOk, stores: Object.fromEntries(stores), ledger: await dumpLedger(client) };
  } finally {
    await client.end();
  }
}

/** What operations do after a restore, before clients are let in again (docs/runbook.md). */
async function repair({ abide }: Pick<Target, 'abide'>): Promise<void> {
  const { dataFolder, configFile, url } = abide;
  const env = { ABIDE_DATA: dataFolder, ABIDE_CONFIG: configFile, ABIDE_URL: url, ABIDE_LOG: 'warn' };
  for (const command of [
    ['ledger', 'restored'],
    // A store may have been paused at the time of the backup; 3: it was not.
    ...STORES.map((store) => ['stores', 'resume', store]),
    ['reconcile', '--after-restore', '--store', 'crm'],
  ]) {
    const { code, output } = await runAbide(command, env);
    if (code !== 0 && !(code === 3 && command[0] === 'stores'))
      throw new Error(`abide ${command.join(' ')} ended with ${code}: ${output}`);
  }
}

/** An opt-out of each person that the ledger has now, if any. */
async function optOutsOf(
  { ask }: Pick<Target, 'ask'>,
  { answered }: Evidence,
): Promise<ReadonlyMap<string, string>> {
  const ids = new Map<string, string>();
  for (const email of new Set(answered.map((one) => one.email))) {
    const { status, text } = await ask('POST', '/v1/subjects/lookup', { subject: { email } });
    if (status !== 200) throw new Error(`a lookup was answered ${status}: ${text}`);
    const [newest] = (JSON.parse(text) as { opt_outs: { id: string }[] }).opt_outs;
    if (newest !== undefined) ids.set(email, newest.id);
  }
  return ids;
}

export async function runScenario(
  scenario: Scenario,
  signal: AbortSignal,
  source: Source = 'pgoutput',
): Promise<RunResult> {
  await using stack = new AsyncDisposableStack();
  const fills = scenario.steps.some((step) => step.kind === 'fault' && step.fault.kind === 'disk_full');
  const system = stack.use(await startTarget(source, fills));
  const apiLine = stack.use(
    await startTcpProxy({ host: '127.0.0.1', port: Number(new URL(system.abide.url).port) }),
  );
  const { ask: post } = speakWith({ url: `http://127.0.0.1:${apiLine.port}`, key: system.abide.key }, stack);
  // Every store has been opened, and has its first canary.
  const isOpen = async (): Promise<boolean> =>
    (await isWell(system)) &&
    (await Promise.all(STORES.map((store) => system.stores[store].count()))).every((count) => count > 0);
  if (!(await within(RECOVERY_MS, signal, isOpen))) throw new Error('The stores were not opened.');

  const beganAt = performance.now();
  const log: string[] = [];
  const say = (what: string): void => {
    log.push(`${((performance.now() - beganAt) / 1_000).toFixed(3).padStart(7)} ${what}`);
  };
  const truth = watchTruth(system);
  // However the run ends: something that looks into a system that is gone would look for ever.
  stack.defer(async () => {
    await truth.stop().catch(() => undefined);
  });
  const clients = createClients({
    post: (path, body, headers) => post('POST', path, body, headers),
    emailOf: (who) => `c${scenario.seed}-${who}@example.com`,
    emailOfMind: (who) => `m${scenario.seed}-${who}@example.com`,
    onAnswer: (...told) => truth.answered(...told),
    onConsent: (email) => truth.lifted(email),
    say,
  });
  const faults = createFaults({ system, apiLine, tampered: (store) => truth.tampered(store), say });

  for (const step of scenario.steps) {
    const waitMs = beganAt + step.atMs - performance.now();
    if (waitMs > 0) await delay(waitMs);
    signal.throwIfAborted();
    if (step.kind === 'load') clients.send(step.optOuts);
    else if (step.kind === 'minds_changed') clients.say(step.who, step.words);
    else faults.begin(step.fault);
  }
  await faults.end();
  say('every fault is over');
  const wellFrom = performance.now();
  const unanswered = await clients.finish(ANSWER_MS);
  const recovered = await within(RECOVERY_MS, signal, () => isWell(system));
  const recoveryMs = recovered ? performance.now() - wellFrom : undefined;
  say(recovered ? 'every store is ok, nothing is outstanding' : 'it did not become well');
  const drift = await reconcileAll(system, RECOVERY_MS, signal);
  say(`a pass over every store found ${drift ?? 'no end'}`);
  const settled = await within(RECOVERY_MS, signal, () => isWell(system));
  const { lies, samples, telling } = await truth.stop();
  const evidence = await gatherEvidence(system, { answered: clients.answered, unanswered, lies });

  const late: Finding[] = [];
  const notRecovered = (what: string): number => late.push({ category: 'not_recovered', what });
  if (unanswered.length > 0)
    notRecovered(`${unanswered.length} requests were not answered within ${ANSWER_MS} ms`);
  if (!recovered) notRecovered(`the lag was not ok with nothing outstanding within ${RECOVERY_MS} ms`);
  if (drift === undefined) notRecovered(`a pass over the stores did not end within ${RECOVERY_MS} ms`);
  if (!settled) notRecovered(`what the passes found was not put right within ${RECOVERY_MS} ms`);
  const findings = [...check(evidence), ...late];
  if (faults.ledgerBackup !== undefined && findings.length === 0) {
    await faults.ledgerBackup.restore();
    await repair(system);
    say('the ledger went back to its backup, and was repaired from a store');
    if (!(await within(RECOVERY_MS, signal, () => isWell(system))))
      findings.push({ category: 'not_recovered', what: 'after the ledger was restored' });
    const told = stillPromised(
      clients.answered,
      faults.ledgerBackup.takenAt,
      await optOutsOf(system, evidence),
    );
    const found = check(await gatherEvidence(system, { ...told, lies: [] }));
    findings.push(...found.map(({ category, what }) => ({ category, what: `restored ledger: ${what}` })));
  }
  return {
    scenario,
    findings,
    confirmed: clients.answered.length,
    people: new Set(clients.answered.map(({ email }) => email)).size,
    samples,
    telling,
    recoveryMs,
    drift: drift ?? 0,
    evidence,
    log,
    output: system.abide.output,
  };
}
