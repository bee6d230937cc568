// Stores, ledger and audit work on the ledger itself: its administrator has the database, not an API key.
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { InvalidArgumentError, Option } from 'commander';
import type { Command } from 'commander';
import { auditPages } from '../ledger/audit.ts';
import type { AuditFilter } from '../ledger/audit.ts';
import type { AuditEntry } from '../ledger/contract/audit.ts';
import type { Pool } from '../ledger/database.ts';
import { changeStore, listStores, refillStore } from '../ledger/stores.ts';
import type { RegisteredStore } from '../ledger/stores.ts';
import { AbideError } from '../suppression/errors.ts';
import { SUBJECT_KINDS } from '../suppression/subject-kind.ts';
import type { SubjectKind } from '../suppression/subject-kind.ts';
import { identify, SUBJECT_HELP } from './identify.ts';
import { environmentOf, ofInstallation } from './installation.ts';
import type { Installation } from './installation.ts';
import { expectStore, onLedger, operator } from './on-ledger.ts';
import { EXIT, leave, print, printJson, printTable, sayNo, toJson } from './output.ts';
import { readCount, readInstant, readReason } from './read-arguments.ts';

export function addStores(program: Command): void {
  const stores = program.command('stores').description('The stores that must abide');
  ofInstallation(stores.command('list'))
    .description('List the registered stores')
    .option('--json', 'print JSON')
    .action(async (options: Installation & { json?: boolean }) => {
      await onLedger(options, async (pool) => {
        const all = await listStores(pool);
        if (options.json === true) return printJson(all.map(toPrintedStore));
        printTable(
          ['STORE', 'CONNECTOR', 'REQUIRED', 'GENERATION', 'STATE', 'ACCEPTS', 'SCOPES'],
          all.map((store) => [
            store.name,
            store.connector,
            store.required ? 'yes' : 'no',
            String(store.generation),
            store.retiredAt !== undefined
              ? 'retired'
              : store.pausedAt !== undefined
                ? 'paused'
                : store.backfillFence !== undefined
                  ? 'backfilling'
                  : 'in service',
            store.accepts.join(' '),
            store.scopes.join(' '),
          ]),
        );
      });
    });
  ofInstallation(stores.command('read'))
    .description('Ask a store itself what it holds of one subject')
    .argument('<store>')
    .requiredOption('--subject <subject>', SUBJECT_HELP)
    .addOption(new Option('--kind <kind>', 'the kind, if it cannot be told').choices(SUBJECT_KINDS))
    .option('--json', 'print JSON')
    .action(
      async (
        name: string,
        options: Installation & { subject: string; kind?: SubjectKind; json?: boolean },
      ) => {
        const [kind, value] =
          options.kind === undefined ? identify(options.subject) : [options.kind, options.subject];
        const { readFromStore } = await import('../processes/read-store.ts');
        const held = await readFromStore(environmentOf(options), name, kind, value).catch(
          (error: unknown) => {
            if (error instanceof AbideError && error.code === 'invalid-value')
              throw new InvalidArgumentError(error.message);
            throw error;
          },
        );
        if (options.json === true) printJson(held ?? null);
        else if (held === undefined) print(`${name} holds nothing of this subject`);
        else {
          print(`suppressed: ${held.suppressed.join(', ') || 'nothing'}`);
          print(`version:    ${held.version ?? 'not kept'}`);
        }
        if (held === undefined) process.exitCode = EXIT.no;
        leave();
      },
    );

  const change = (verb: 'pause' | 'resume', done: 'paused' | 'resumed', description: string): void => {
    ofInstallation(stores.command(verb))
      .description(description)
      .argument('<store>')
      .action(async (name: string, options: Installation) => {
        await onLedger(options, async (pool) => {
          if (await changeStore(pool, name, done, {}, operator())) return print(`${done} ${name}`);
          await sayWhyNot(pool, name, done === 'paused' ? 'is paused already' : 'is not paused');
        });
      });
  };
  change('pause', 'paused', 'Stop carrying decisions to a store. Its lag goes on counting.');
  change('resume', 'resumed', 'Carry decisions to a paused store again');
  ofInstallation(stores.command('retire'))
    .description('Take a store out of service for good: nothing is due to it any more')
    .argument('<store>')
    .requiredOption('--reason <text>', 'why, for the audit log', readReason)
    .action(async (name: string, options: Installation & { reason: string }) => {
      const { reason } = options;
      await onLedger(options, async (pool) => {
        if (await changeStore(pool, name, 'retired', { reason }, operator())) {
          return print(
            `retired ${name}: take it out of abide.yaml, or the next start puts it into service again`,
          );
        }
        await sayWhyNot(pool, name, 'is retired already');
      });
    });
  ofInstallation(stores.command('refill'))
    .description(
      'Start a new generation: everybody who opted out is carried to the store again and read back',
    )
    .argument('<store>')
    .option('--reason <text>', 'why, for the audit log', readReason, 'asked for')
    .action(async (name: string, options: Installation & { reason: string }) => {
      await onLedger(options, async (pool) => {
        if (await refillStore(pool, name, options.reason, operator()))
          return print(`refilling ${name}: watch \`abide lag --watch\``);
        await sayWhyNot(pool, name, 'is retired');
      });
    });
}

export function addLedger(program: Command): void {
  const ledger = program.command('ledger').description('The ledger itself');
  ofInstallation(ledger.command('init'))
    .description(
      'Begin a ledger in an empty database, with the key ring of this installation. Once and by hand, never where a ledger was lost or before each start: a new one answers every check with "send".',
    )
    .action(async (options: Installation) => {
      const { beginLedger } = await import('../processes/begin-ledger.ts');
      const begun = await beginLedger(environmentOf(options));
      if (begun === undefined) sayNo('there is a ledger already');
      else print(`a new ledger begins in ${begun}`);
    });
  ofInstallation(ledger.command('restored'))
    .description(
      'Say that the database was restored from a backup: nothing that it gave out since is mistaken for something new, and every store is filled again. Once, before clients are let in.',
    )
    .action(async (options: Installation) => {
      const { ledgerRestored } = await import('../ledger/restored.ts');
      const { from, stores } = await onLedger(options, (pool) => ledgerRestored(pool, operator()), 'owner');
      print(`decisions go on above ${from}; refilling ${stores.join(', ') || 'no store'}`);
      print('next, for each store that can list: abide reconcile --after-restore --store NAME');
    });
}

/** A store as `stores list --json` prints it. */
const toPrintedStore = ({
  name,
  backfillFence,
  ...store
}: RegisteredStore): Readonly<Record<string, unknown>> => {
  const { id: _id, live_after: _mark, ...rest } = toJson(store);
  return { store: name, ...rest, backfilling: backfillFence !== undefined };
};

/** What was asked for was not done: the store does not exist, is retired, or is in that state already. */
async function sayWhyNot(pool: Pool, name: string, otherwise: string): Promise<void> {
  const { retiredAt } = await expectStore(pool, name);
  sayNo(`${name} ${retiredAt === undefined ? otherwise : `is retired, since ${retiredAt}`}`);
}

type AuditOptions = Installation &
  AuditFilter & { readonly after: number; readonly limit?: number; readonly json?: boolean };

export function addAudit(program: Command): void {
  ofInstallation(program.command('audit'))
    .description('Print the audit log, oldest first: all of it, unless told otherwise')
    .option('--after <seq>', 'begin after this entry', readCount(0), 0)
    .option('--limit <n>', 'at most this many', readCount(1))
    .option('--action <action>', 'only this action, e.g. opt_out.recorded, key.created, store.paused')
    .option('--key <id>', 'only what this key did: the 12 characters after abide_live_, or token:NAME')
    .option('--since <time>', 'only what was done at this time or later', readInstant)
    .option('--until <time>', 'only what was done before this time', readInstant)
    .option('--json', 'print one JSON object per line')
    .action(async (options: AuditOptions) => {
      const { after, limit, action, key, since, until } = options;
      const filter = { action, key, since, until };
      // Not where the option is read: Commander would print there what was typed.
      if (key?.startsWith('abide_') === true)
        throw new InvalidArgumentError('--key takes the id of a key, the 12 characters after abide_live_');
      if (since !== undefined && until !== undefined && since >= until)
        throw new InvalidArgumentError('--since must be before --until');
      await onLedger(options, async (pool) => {
        let found = 0;
        async function* lines(): AsyncGenerator<string> {
          for await (const page of auditPages(pool, { after, limit, ...filter })) {
            found += page.length;
            yield page
              .map((entry) => `${options.json === true ? JSON.stringify(toJson(entry)) : sayEntry(entry)}\n`)
              .join('');
          }
        }
        // The log is read only as fast as it is printed.
        await pipeline(Readable.from(lines()), process.stdout, { end: false });
        const asked = Object.entries(filter).flatMap(([name, value]) =>
          value === undefined ? [] : [`--${name} ${value}`],
        );
        if (found === 0 && asked.length > 0)
          process.stderr.write(`abide: no entry of the audit log has ${asked.join(' ')}\n`);
      });
    });
}

const sayEntry = ({ seq, at, action, resource, client, details }: AuditEntry): string =>
  `${seq}  ${at}  ${action}  ${resource ?? '-'}  by ${client ?? 'abide'}  ${JSON.stringify(details)}`;
