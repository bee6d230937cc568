// Does a store still hold what it acknowledged? Asked through the API; the store's worker reads everything back again.
import { setTimeout as delay } from 'node:timers/promises';
import type { Command } from 'commander';
import type { LagReport } from '../ledger/ledger.ts';
import { createApiClient, expectOk, withApi } from './api-client.ts';
import { endProgress, EXIT, print, printJson, printProgress } from './output.ts';

type Pass = {
  readonly id: number;
  readonly started_at: string;
  readonly finished_at: string | null;
  readonly through: number;
  readonly compared: number;
  readonly missing: number;
  readonly older: number;
  readonly resurrected: number;
  readonly ahead: number;
  readonly own: number;
};

const LOOK_MS = 250;

const differences = (pass: Pass): number => pass.missing + pass.older + pass.resurrected + pass.ahead;

function printPass(pass: Pass): void {
  print(`${pass.compared} subjects read back again, ${differences(pass)} differ`);
  const found = [
    [pass.missing, 'not held at all'],
    [pass.older, 'held in an older version: the store went back in time'],
    [pass.resurrected, 'held and lifted again by somebody else, such as an import'],
    [pass.ahead, 'held in a version that the ledger never gave'],
  ] as const;
  for (const [count, what] of found) if (count > 0) print(`  ${count} ${what}`);
  if (pass.own > 0)
    print(`  ${pass.own} of which the store suppresses more than was decided: its own, left as it is`);
}

export function addReconcile(program: Command): void {
  withApi(program.command('reconcile'))
    .description(
      'Reads back everything that a store acknowledged; what it no longer holds is carried to it again. Exit code 3: something differed.',
    )
    .requiredOption('--store <name>', 'the store')
    .option('--no-wait', 'ask for it and do not wait')
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      `
It also runs by itself, a minute after the last pass, at most 500 subjects a second. Where it found something this command
waits until that is held again; interrupted, the pass goes on.`,
    )
    .action(async (options: { url?: string; key?: string; store: string; wait: boolean; json?: boolean }) => {
      const api = createApiClient(options);
      const path = `/v1/stores/${encodeURIComponent(options.store)}/reconciliation`;
      const { id } = expectOk<{ id: number }>(await api.call('POST', path, {}));
      if (!options.wait) {
        if (options.json === true) printJson({ id });
        else print(`pass ${id} was asked for`);
        return;
      }
      const pass = await untilFinished(id, async () => {
        const { passes } = expectOk<{ passes: Pass[] }>(await api.call('GET', `${path}?limit=10`));
        return passes;
      });
      const held =
        differences(pass) === 0 ||
        (await untilHeld(options.store, () => api.call('GET', '/v1/propagation-lag')));
      endProgress();
      if (options.json === true) printJson(pass);
      else {
        printPass(pass);
        if (differences(pass) > 0)
          print(held ? 'all of it is held again' : 'some of it is not held yet: see `abide lag`');
      }
      if (differences(pass) > 0) process.exitCode = EXIT.no;
    });
}

async function untilFinished(id: number, look: () => Promise<readonly Pass[]>): Promise<Pass> {
  for (;;) {
    const passes = await look();
    const pass = passes.find((one) => one.id === id);
    if (pass?.finished_at != null) return pass;
    if (pass === undefined)
      throw new Error('The pass was ended by another one, or by a new generation of the store: ask again.');
    printProgress(`${pass.compared} subjects read back again, ${differences(pass)} differ so far`);
    await delay(LOOK_MS);
  }
}

/** What a pass found is outstanding until it is read back; bounded, since a store may be away. */
async function untilHeld(
  store: string,
  look: () => Promise<{ status: number; body: unknown }>,
): Promise<boolean> {
  for (let tries = 0; tries < 120; tries += 1) {
    const lag = expectOk<LagReport>(await look()).stores.find((one) => one.store === store);
    if (lag?.drift === 0) return true;
    printProgress(`${lag?.drift ?? 'unknown'} carried to the store again`);
    await delay(LOOK_MS);
  }
  return false;
}
