// API keys, made and changed on the ledger itself.
import { InvalidArgumentError, Option } from 'commander';
import type { Command } from 'commander';
import { createKey, KEY_SCOPES, listKeys, makeToken, revokeKey, rotateKey } from '../ledger/api-keys.ts';
import { makeKeyRing } from '../ledger/key-ring.ts';
import { ofInstallation } from './installation.ts';
import type { Installation } from './installation.ts';
import { expectStore, onLedger, operator } from './on-ledger.ts';
import { EXIT, print, printJson, printTable, toJson } from './output.ts';

const toExpiry = (text: string): string => {
  const days = /^(\d{1,5})d$/.exec(text)?.[1];
  const at = days === undefined ? Date.parse(text) : Date.now() + Number(days) * 86_400_000;
  if (Number.isNaN(at)) throw new InvalidArgumentError('Give a date (2027-01-01) or a number of days (90d).');
  if (at <= Date.now()) throw new InvalidArgumentError('That is over already.');
  return new Date(at).toISOString();
};

const SECONDS: Readonly<Record<string, number>> = { s: 1, m: 60, h: 3_600, d: 86_400 };
const OVERLAP_SECONDS_MAX = 90 * 86_400;

const toSeconds = (text: string): number => {
  const [, count, unit] = /^(\d{1,7})([smhd])$/.exec(text) ?? [];
  const seconds = Number(count) * SECONDS[unit ?? 's']!;
  if (seconds <= OVERLAP_SECONDS_MAX) return seconds;
  throw new InvalidArgumentError('Give a time such as 30m, 24h or 7d, at most 90d.');
};

export function addKeys(program: Command): void {
  const keys = program.command('keys').description('API keys: make, list, rotate, revoke; and the key ring');
  ofInstallation(keys.command('create'))
    .description('Make a key. It is printed once and kept nowhere.')
    .requiredOption('--client <name>', 'who it is for; idempotency keys are shared within a client')
    .addOption(new Option('--scope <scope...>', 'what it may do').choices(KEY_SCOPES))
    .option('--store <name>', "a worker's key, bound to this store (scope acknowledgements:write)")
    .option(
      '--expires <when>',
      'a date, or days from now such as 90d; without it the key does not expire',
      toExpiry,
    )
    .option('--json', 'print JSON')
    .action(
      async (
        options: Installation & {
          client: string;
          scope?: string[];
          store?: string;
          expires?: string;
          json?: boolean;
        },
      ) => {
        const scopes = options.scope ?? (options.store === undefined ? [] : ['acknowledgements:write']);
        if (scopes.length === 0) throw new InvalidArgumentError('name at least one --scope, or a --store');
        if (scopes.includes('acknowledgements:write') !== (options.store !== undefined)) {
          throw new InvalidArgumentError(
            '--store and the scope acknowledgements:write go together: a worker speaks for one store',
          );
        }
        await onLedger(options, async (pool) => {
          if (options.store !== undefined) await expectStore(pool, options.store);
          const { key, token } = await createKey(pool, {
            client: options.client,
            scopes,
            store: options.store,
            expiresAt: options.expires,
            caller: operator(),
          });
          if (options.json === true) printJson({ ...toJson(key), token });
          else print(token);
        });
      },
    );
  ofInstallation(keys.command('list'))
    .description('List the keys, never their secrets')
    .option('--json', 'print JSON')
    .action(async (options: Installation & { json?: boolean }) => {
      await onLedger(options, async (pool) => {
        const all = await listKeys(pool);
        if (options.json === true) return printJson(all.map(toJson));
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
  ofInstallation(keys.command('rotate'))
    .description(
      'Make a key that stands in for another one: the same client, scopes, store and limits. It is printed once; the old one goes on for the overlap.',
    )
    .argument('<id>', 'the 12 characters after abide_live_')
    .addOption(
      new Option('--overlap <time>', 'how long the old key is still good, such as 30m, 24h or 7d')
        .argParser(toSeconds)
        .default(SECONDS['d']!, '24h'),
    )
    .option('--json', 'print JSON')
    .action(async (id: string, options: Installation & { overlap: number; json?: boolean }) => {
      await onLedger(options, async (pool) => {
        const rotated = await rotateKey(pool, { id, overlapSeconds: options.overlap, caller: operator() });
        if (rotated === undefined) return sayNoKey(id);
        const { key, token, oldExpiresAt } = rotated;
        if (options.json === true) printJson({ ...toJson(key), token, old_expires_at: oldExpiresAt });
        else {
          print(token);
          process.stderr.write(`${id} is good until ${oldExpiresAt}\n`);
        }
      });
    });
  ofInstallation(keys.command('revoke'))
    .description('Revoke a key: it is refused within a second')
    .argument('<id>', 'the 12 characters after abide_live_')
    .action(async (id: string, options: Installation) => {
      await onLedger(options, async (pool) => {
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

function sayNoKey(id: string): void {
  print(`no key ${id} is in use`);
  process.exitCode = EXIT.no;
}
