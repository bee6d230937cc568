// Carries out the faults of a scenario. What a moment does not allow (nobody there to forget, no backup yet) is left out, and the
// run's log says so.
import { setTimeout as delay } from 'node:timers/promises';
import { runAbide } from '../harness/abide.ts';
import type { Backup } from '../harness/abide.ts';
import { eventually } from '../harness/eventually.ts';
import type { TcpProxy } from '../harness/tcp-proxy.ts';
import { STORES } from '../pipeline/system.ts';
import type { StoreName } from '../pipeline/system.ts';
import { LINES } from './scenario.ts';
import type { Fault, Line } from './scenario.ts';
import type { Target } from './target.ts';

export type Faults = {
  /** Begins a fault; what lasts, or waits for a process to be back, goes on by itself. */
  begin(fault: Fault): void;
  /** Every line is good again, every process runs, nobody is paused, no transaction is open. */
  end(): Promise<void>;
  /** A backup of the ledger, if one was made; for when every fault has ended. */
  readonly ledgerBackup: Backup | undefined;
};

const RESTART_MS = 60_000;

export function createFaults({
  system,
  apiLine,
  tampered,
  say,
}: {
  system: Target;
  /** The line that the clients use. */
  apiLine: Pick<TcpProxy, 'setFault'>;
  /** Called when a store was changed past Abide. */
  tampered: (store: StoreName) => void;
  say: (what: string) => void;
}): Faults {
  const ending = new AbortController();
  const underWay = new Set<Promise<void>>();
  /** One process is killed, or the disk filled, at a time, and is back before the next. */
  let processes = Promise.resolve();
  /** One clock jumps at a time, and is right again before the next. */
  let clocks = Promise.resolve();
  let restore: (() => Promise<void>) | undefined;
  let ledgerBackup: Backup | undefined;
  const lineFaults = new Map<Line, object>();

  const setLine = (line: Line, how: Parameters<TcpProxy['setFault']>[0]): void =>
    line === 'api' ? apiLine.setFault(how) : system.stores[line].setFault(how);

  /** Once the run ends, nobody waits for the end of a fault any more. */
  const last = (forMs: number): Promise<void> =>
    delay(forMs, undefined, { signal: ending.signal }).catch(() => undefined);

  async function changeStore(store: StoreName, change: () => Promise<void>): Promise<void> {
    tampered(store);
    await change();
    tampered(store);
  }

  /** A command of operations; it fails while the ledger is away, and operations would try again. */
  async function command(...args: readonly string[]): Promise<void> {
    const { dataFolder, configFile } = system.abide;
    const env = { ABIDE_DATA: dataFolder, ABIDE_CONFIG: configFile, ABIDE_LOG: 'silent' };
    await eventually(async () => {
      const { code, output } = await runAbide(args, env);
      // 3: it is so already.
      if (code !== 0 && code !== 3) throw new Error(output);
    }, RESTART_MS);
  }

  async function carryOut(fault: Fault): Promise<void> {
    switch (fault.kind) {
      case 'kill':
        processes = processes.then(() => system.kill(fault.what));
        return await processes;
      case 'back_up_ledger':
        processes = processes.then(async () => {
          ledgerBackup = await system.backUpLedger?.();
        });
        return await processes;
      case 'disk_full':
        if (system.fillDisk === undefined)
          return say('left out: this user may mount no disk that could be filled');
        processes = processes.then(async () => {
          const free = await system.fillDisk!();
          await last(fault.forMs);
          await free();
        });
        return await processes;
      case 'line': {
        const { line } = fault;
        lineFaults.set(line, fault);
        setLine(line, 'none');
        setLine(line, fault.how);
        await last(fault.forMs);
        if (lineFaults.get(line) === fault) setLine(line, 'none');
        return;
      }
      case 'wipe':
        if ((await system.stores[fault.store].count()) === 0) return say('left out: nothing to wipe');
        return await changeStore(fault.store, () => system.stores[fault.store].wipe(fault.how));
      case 'tamper': {
        const eye = system.stores[fault.store];
        const people = [...(await eye.contents()).keys()].sort();
        const email = people[Math.floor(fault.at * people.length)];
        if (email === undefined) return say('left out: nobody there to tamper with');
        return await changeStore(fault.store, () => eye.tamper(email, fault.how));
      }
      case 'back_up':
        restore = await system.stores.crm.backUp();
        return;
      case 'restore':
        if (restore === undefined) return say('left out: there is no backup yet');
        return await changeStore('crm', restore);
      case 'pause':
        await command('stores', 'pause', fault.store);
        await last(fault.forMs);
        return await command('stores', 'resume', fault.store);
      case 'replace_pepper':
        // Whoever starts in the middle of it may have the old ring, and would have to be started once more.
        processes = processes.then(async () => {
          await command('keys', 'rotate-pepper');
          await system.kill(system.holdsRing);
        });
        return await processes;
      case 'long_transaction': {
        // While the server is away nobody can have one open.
        const client = await system.abide.connect('postgres').catch(() => undefined);
        if (client === undefined) return say('left out: the database is away');
        await client
          .query('begin; select pg_current_xact_id()')
          .then(() => last(fault.forMs))
          .then(() => client.query('commit'))
          .catch(() => say('the long transaction ended with the database'));
        return await client.end().catch(() => undefined);
      }
      case 'clock':
        clocks = clocks.then(async () => {
          await system.setClock(fault.of, fault.aheadMs);
          await last(fault.forMs);
          await system.setClock(fault.of, 0);
        });
        return await clocks;
      case 'drop_slots': {
        const client = await system.abide.connect().catch(() => undefined);
        if (client === undefined) return say('left out: the database is away');
        await client.query(system.dropSlots).catch(() => say('left out: the database went away'));
        return await client.end().catch(() => undefined);
      }
    }
  }

  return {
    begin(fault) {
      say(`fault ${JSON.stringify(fault)}`);
      const done = carryOut(fault);
      // A fault that cannot be carried out fails the run at end(), not the process before.
      done.catch(() => undefined);
      underWay.add(done);
    },
    async end() {
      ending.abort();
      lineFaults.clear();
      for (const line of LINES) setLine(line, 'none');
      await Promise.all(underWay);
      for (const store of STORES) system.stores[store].setFault('none');
    },
    get ledgerBackup() {
      return ledgerBackup;
    },
  };
}
