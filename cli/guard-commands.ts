// guard: triggers in the data team's own tables, as the configuration names them.
import { InvalidArgumentError } from 'commander';
import type { Command } from 'commander';
import { audit } from '../ledger/audit.ts';
import type { ConfiguredGuard } from '../processes/guard/guarded-store.ts';
import { AbideError, sayError } from '../suppression/errors.ts';
import { environmentOf, ofInstallation } from './installation.ts';
import type { Installation } from './installation.ts';
import { onLedger, operator } from './on-ledger.ts';
import { EXIT, print, printJson, printTable, toJson } from './output.ts';

type Options = Installation & { store: string; url?: string };

async function onGuard(options: Options, work: (guard: ConfiguredGuard) => Promise<void>): Promise<void> {
  const { openGuard } = await import('../processes/guard/open-guard.ts');
  const opening = openGuard(environmentOf(options), options.store, options.url);
  await using guard = await opening.catch((error: unknown) => {
    if (error instanceof AbideError && error.code === 'invalid-value')
      throw new InvalidArgumentError(error.message);
    throw error;
  });
  await work(guard);
}

/**
 * Writes to the ledger's log, after the change: the change is to the store's database, and may be made where no ledger is in reach.
 * If it gets into no log, that is said.
 */
async function log(
  options: Options,
  action: 'guard.installed' | 'guard.removed',
  { tables }: ConfiguredGuard,
  counts: Readonly<Record<string, number>>,
): Promise<void> {
  try {
    await onLedger(options, (pool) => audit(pool, operator(), action, options.store, { tables, ...counts }));
  } catch (error) {
    process.stderr.write(`abide: this is not in the audit log: ${sayError(error)}\n`);
  }
}

const countOf = (statements: readonly string[], kind: 'create trigger' | 'drop trigger'): number =>
  statements.filter((statement) => statement.startsWith(kind)).length;

/** In the form that a client of the database takes: a body has semicolons of its own. */
const printStatements = (statements: readonly string[]): void => {
  const hasBodies = statements.some(
    (statement) => /^begin/m.test(statement) && statement.startsWith('create trigger'),
  );
  if (hasBodies) print('delimiter //');
  for (const statement of statements) print(`${statement}${hasBodies ? ' //' : ';'}`);
};

export function addGuard(program: Command): void {
  const guard = program
    .command('guard')
    .description("Keep imports from re-enabling suppressed contacts in a store's own tables, by triggers");
  const ofStore = (name: string, description: string): Command =>
    ofInstallation(guard.command(name))
      .description(description)
      .requiredOption('--store <name>', 'the store, with `guard:` in abide.yaml')
      .option(
        '--url <url>',
        "the database with a user who may create triggers, instead of the store's own URL",
      );

  ofStore('install', 'Make the triggers that abide.yaml asks for, and hold down who is enabled already')
    .option('--print', 'print the SQL and change nothing')
    .action(async (options: Options & { print?: boolean }) => {
      await onGuard(options, async (opened) => {
        const statements = await opened.installing();
        if (options.print === true) return printStatements(statements);
        const changed = await opened.run(statements);
        print(`guarding ${options.store}: ${changed} contact(s) held down that could be sent to`);
        await log(options, 'guard.installed', opened, {
          triggers: countOf(statements, 'create trigger'),
          held_down: changed,
        });
      });
    });
  ofStore(
    'status',
    'Whether they are there, what they held down, and whom they cannot recognise. Exit code 3: one is missing, or somebody can be sent to who is suppressed.',
  )
    .option('--json', 'print JSON')
    .action(async (options: Options & { json?: boolean }) => {
      await onGuard(options, async (opened) => {
        const [states, logged] = [await opened.status(), await opened.logged()];
        if (options.json === true) printJson({ columns: states.map(toJson), logged: logged ?? null });
        else {
          printTable(
            ['TABLE', 'COLUMN', 'CHANNEL', 'STATE', 'RESURRECTED', 'UNREADABLE KEYS'],
            states.map((one) => [
              one.table,
              one.column,
              one.channel,
              one.state,
              String(one.resurrected),
              String(one.unreadable),
            ]),
          );
          print(logged === undefined ? 'nothing is logged' : `${logged} attempt(s) in abide_guard_log`);
        }
        const isFine = states.every(({ state, resurrected }) => state === 'installed' && resurrected === 0);
        if (!isFine) process.exitCode = EXIT.no;
      });
    });
  ofStore('remove', 'Drop the triggers, and all that belongs to them')
    .option('--keep-log', 'leave abide_guard_log')
    .option('--print', 'print the SQL and change nothing')
    .action(async (options: Options & { keepLog?: boolean; print?: boolean }) => {
      await onGuard(options, async (opened) => {
        const { statements, logStays } = await opened.removing({ keepLog: options.keepLog === true });
        if (logStays !== undefined) process.stderr.write(`abide: abide_guard_log stays: ${logStays}.\n`);
        if (options.print === true) return printStatements(statements);
        await opened.run(statements);
        print(
          statements.length === 0 ? `${options.store} has no guard` : `${options.store} is no longer guarded`,
        );
        if (statements.length > 0)
          await log(options, 'guard.removed', opened, { triggers: countOf(statements, 'drop trigger') });
      });
    });
}
