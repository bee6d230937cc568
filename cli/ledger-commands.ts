// keys, stores and audit work on the ledger itself: whoever administers it has the database, not an API key.
import { hostname, userInfo } from 'node:os';
import { InvalidArgumentError } from 'commander';
import type { Command } from 'commander';
import { createKey, KEY_SCOPES, listKeys, makeToken, revokeKey } from '../ledger/api-keys.ts';
import { readAudit } from '../ledger/audit.ts';
import { makeKeyRing } from '../ledger/key-ring.ts';
import type { Caller } from '../ledger/ledger.ts';
import { changeStore, listStores, refillStore } from '../ledger/stores.ts';
import { readFromStore } from '../processes/read-store.ts';
import { withLedgerDatabase } from '../processes/running-database.ts';
import { SUBJECT_KINDS } from '../suppression/subject.ts';
import type { SubjectKind } from '../suppression/subject.ts';
import { EXIT, print, printJson, printTable } from './output.ts';

/** Who sits at the terminal, for the audit log. */
const operator = (): Caller => ({
  client: `cli:${userInfo().username}`,
  keyId: 'cli',
  address: hostname(),
  requestId: `cli-${process.pid}`,
});

const toInstant = (text: string): string => {
  const days = /^(\d+)d$/.exec(text)?.[1];
  const at = days === undefined ? Date.parse(text) : Date.now() + Number(days) * 86_400_000;
  if (Number.isNaN(at)) throw new InvalidArgumentError('give a date (2027-01-01) or a number of days (90d)');
  return new Date(at).toISOString();
};

export function addKeys(program: Command): void {
  const keys = program.command('keys').description('API keys: make, list, revoke; and the key ring');
  keys
    .command('create')
    .description('Make a key. It is printed once and kept nowhere.')
    .requiredOption('--client <name>', 'who it is for; idempotency keys are shared within a client')
    .option('--scope <scope...>', `what it may do: ${KEY_SCOPES.join(', ')}`)
    .option('--store <name>', "a worker's key, bound to this store (scope acknowledgements:write)")
    .option(
      '--expires <when>',
      'a date, or days from now such as 90d; without it the key does not expire',
      toInstant,
    )
    .option('--json', 'print JSON')
    .action(
      async (options: {
        client: string;
        scope?: string[];
        store?: string;
        expires?: string;
        json?: boolean;
      }) => {
        const scopes = options.scope ?? (options.store === undefined ? [] : ['acknowledgements:write']);
        const unknown = scopes.filter((scope) => !(KEY_SCOPES as readonly string[]).includes(scope));
        if (scopes.length === 0 || unknown.length > 0) {
          throw new InvalidArgumentError(
            unknown.length > 0
              ? `unknown scope ${unknown.join(', ')}`
              : 'name at least one --scope, or a --store',
          );
        }
        if (scopes.includes('acknowledgements:write') && options.store === undefined) {
          throw new InvalidArgumentError(
            'acknowledgements:write needs --store: a worker speaks for one store',
          );
        }
        await withLedgerDatabase(async (pool) => {
          if (
            options.store !== undefined &&
            !(await listStores(pool)).some((store) => store.name === options.store)
          ) {
            throw new InvalidArgumentError(`no store is called ${options.store}`);
          }
          const { key, token } = await createKey(pool, {
            client: options.client,
            scopes,
            store: options.store,
            expiresAt: options.expires,
            caller: operator(),
          });
          if (options.json === true) printJson({ ...key, token });
          else print(token);
        });
      },
    );
  keys
    .command('list')
    .description('List the keys, never their secrets')
    .option('--json', 'print JSON')
    .action(async (options: { json?: boolean }) => {
      await withLedgerDatabase(async (pool) => {
        const all = await listKeys(pool);
        if (options.json === true) return printJson(all);
        printTable(
          ['ID', 'CLIENT', 'STORE', 'LAST USED', 'STATE', 'SCOPES'],
          all.map((key) => [
            key.id,
            key.client,
            key.store ?? '-',
            key.lastUsedAt?.slice(0, 16) ?? 'never',
            key.revokedAt !== undefined
              ? 'revoked'
              : (key.expiresAt ?? '9') < new Date().toISOString()
                ? 'expired'
                : 'valid',
            key.scopes.join(' '),
          ]),
        );
      });
    });
  keys
    .command('revoke')
    .description('Revoke a key: it is refused within a second')
    .argument('<id>', 'the 12 characters after abide_live_')
    .action(async (id: string) => {
      await withLedgerDatabase(async (pool) => {
        if (await revokeKey(pool, id, operator())) return print(`revoked ${id}`);
        print(`no key ${id}, or it is revoked already`);
        process.exitCode = EXIT.no;
      });
    });
  keys
    .command('ring')
    .description(
      'Print a new key ring for ABIDE_KEYS. Keep it: a database never starts with another ring than its own.',
    )
    .action(() => print(makeKeyRing().trim()));
  keys
    .command('token')
    .description('Print a new key for ABIDE_ADMIN_KEY. No Abide knows it until it starts with it.')
    .action(() => print(makeToken()));
}

export function addStores(program: Command): void {
  const stores = program.command('stores').description('The stores that must abide');
  stores
    .command('list')
    .description('List the registered stores')
    .option('--json', 'print JSON')
    .action(async (options: { json?: boolean }) => {
      await withLedgerDatabase(async (pool) => {
        const all = await listStores(pool);
        if (options.json === true) return printJson(all);
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
  stores
    .command('read')
    .description('Ask a store itself what it holds of one subject')
    .argument('<store>')
    .requiredOption('--subject <value>', 'the address, number, token or person id')
    .option('--kind <kind>', SUBJECT_KINDS.join(', '), 'email')
    .option('--config <file>', 'abide.yaml')
    .option('--json', 'print JSON')
    .action(
      async (name: string, options: { subject: string; kind: string; config?: string; json?: boolean }) => {
        if (!(SUBJECT_KINDS as readonly string[]).includes(options.kind)) {
          throw new InvalidArgumentError(`--kind is one of ${SUBJECT_KINDS.join(', ')}`);
        }
        const held = await readFromStore(name, options.kind as SubjectKind, options.subject, options.config);
        if (options.json === true) printJson(held ?? null);
        else if (held === undefined) print(`${name} holds nothing of this subject`);
        else {
          print(`suppressed: ${held.suppressed.join(', ') || 'nothing'}`);
          print(`version:    ${held.version ?? 'not kept'}`);
        }
        if (held === undefined) process.exitCode = EXIT.no;
      },
    );

  const change = (verb: 'pause' | 'resume', done: 'paused' | 'resumed', description: string): void => {
    stores
      .command(verb)
      .description(description)
      .argument('<store>')
      .action(async (name: string) => {
        await withLedgerDatabase(async (pool) => {
          if (await changeStore(pool, name, done, {}, operator())) return print(`${done} ${name}`);
          print(`no store ${name}, or it is ${done} already`);
          process.exitCode = EXIT.no;
        });
      });
  };
  change('pause', 'paused', 'Stop carrying decisions to a store. Its lag goes on counting.');
  change('resume', 'resumed', 'Carry decisions to a paused store again');
  stores
    .command('retire')
    .description('Take a store out of service for good: nothing is due to it any more')
    .argument('<store>')
    .requiredOption('--reason <text>', 'why, for the audit log')
    .action(async (name: string, { reason }: { reason: string }) => {
      await withLedgerDatabase(async (pool) => {
        if (await changeStore(pool, name, 'retired', { reason }, operator())) return print(`retired ${name}`);
        print(`no store ${name}, or it is retired already`);
        process.exitCode = EXIT.no;
      });
    });
  stores
    .command('refill')
    .description(
      'Start a new generation: everybody who opted out is carried to the store again and read back',
    )
    .argument('<store>')
    .option('--reason <text>', 'why, for the audit log', 'asked for')
    .action(async (name: string, { reason }: { reason: string }) => {
      await withLedgerDatabase(async (pool) => {
        if (await refillStore(pool, name, reason, operator()))
          return print(`refilling ${name}: watch \`abide lag --watch\``);
        print(`no store ${name}`);
        process.exitCode = EXIT.no;
      });
    });
}

export function addAudit(program: Command): void {
  program
    .command('audit')
    .description('Print the audit log, oldest first')
    .option('--after <seq>', 'begin after this entry', Number, 0)
    .option('--limit <n>', 'at most this many', Number, 100)
    .option('--action <action>', 'only this action, e.g. opt_out.recorded, key.created, store.paused')
    .option('--json', 'print one JSON object a line')
    .action(async (options: { after: number; limit: number; action?: string; json?: boolean }) => {
      await withLedgerDatabase(async (pool) => {
        const entries = await readAudit(pool, {
          after: options.after,
          limit: options.limit,
          action: options.action,
        });
        for (const entry of entries) {
          if (options.json === true) print(JSON.stringify(entry));
          else {
            print(
              `${entry.seq}  ${entry.at}  ${entry.action}  ${entry.resource ?? '-'}  by ${entry.client ?? 'abide'}  ${JSON.stringify(entry.details)}`,
            );
          }
        }
      });
    });
}
