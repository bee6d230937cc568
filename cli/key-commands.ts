// API keys, made and changed on the ledger itself.
import { InvalidArgumentError, Option } from 'commander';
import type { Command } from 'commander';
import { dataFolderOf } from '../config/data-folder.ts';
import { createKey, limitKey, listKeys, makeToken, revokeKey, rotateKey } from '../ledger/api-keys.ts';
import { KEY_SCOPES } from '../ledger/contract/api-keys.ts';
import type { ApiKey, KeyLimits } from '../ledger/contract/api-keys.ts';
import { makeKeyRing } from '../ledger/key-ring.ts';
import type { RotatedPurpose } from '../ledger/key-ring.ts';
import { toInstant } from '../suppression/instant.ts';
import type { PepperReplaced } from '../ledger/replace-pepper.ts';
import { environmentOf, ofInstallation } from './installation.ts';
import type { Installation } from './installation.ts';
import { untilInterrupted } from './interruption.ts';
import { expectStore, onLedger, operator } from './on-ledger.ts';
import { print, printJson, printTable, sayNo, toJson } from './output.ts';
import { createPace, drawAmount, showProgress } from './progress.ts';
import { readCount } from './read-arguments.ts';

const toExpiry = (text: string): string => {
  const days = /^(\d{1,5})d$/.exec(text)?.[1];
  const at =
    days === undefined
      ? (toInstant(`${text}T00:00:00Z`) ?? toInstant(text))
      : new Date(Date.now() + Number(days) * 86_400_000).toISOString();
  if (at === undefined)
    throw new InvalidArgumentError(
      'Give a date (2027-01-01), a time with an offset (2027-01-01T09:00:00Z), or a number of days (90d).',
    );
  if (Date.parse(at) <= Date.now()) throw new InvalidArgumentError('That time is over already.');
  return at;
};

const CLIENT_CHARACTERS_MAX = 128;

/** Log, lists and disputes name a client by it; a name with a colon would pass for somebody else. */
const toClient = (text: string): string => {
  if (text.trim() === '' || text.length > CLIENT_CHARACTERS_MAX || /[\p{C}\p{Zl}\p{Zp}]/u.test(text))
    throw new InvalidArgumentError(
      `Give a name of 1 to ${CLIENT_CHARACTERS_MAX} characters, without control characters.`,
    );
  if (text.includes(':'))
    throw new InvalidArgumentError(
      "A name may not have a colon: store:NAME stands for what a store suppresses by itself, ISSUER:NAME for a client of an issuer's tokens, cli:NAME for a person who types commands.",
    );
  return text;
};

const RATE_MAX = 1_000_000;

/** A limit as it is typed: a number, or `none` to take it away. */
type Typed = number | 'none';
type Limits = {
  readonly rate?: Typed;
  readonly optOutsPerDay?: Typed;
  readonly grantsPerDay?: Typed;
  readonly checksPerDay?: Typed;
};

const withLimits = (command: Command, read: (text: string) => Typed): Command =>
  command
    .option('--rate <n>', 'at most this many calls per second, of writes, checks and reads each', (text) => {
      const rate = read(text);
      if (Number(rate) > RATE_MAX) throw new InvalidArgumentError(`At most ${RATE_MAX}.`);
      return rate;
    })
    .option(
      '--opt-outs-per-day <n>',
      'at most this many people newly opted out per day (UTC); repeats are free',
      read,
    )
    .option('--grants-per-day <n>', 'at most this many grants per day', read)
    .option('--checks-per-day <n>', 'at most this many people checked or looked up per day', read);

function toKeyLimits({ rate, optOutsPerDay, grantsPerDay, checksPerDay }: Limits): KeyLimits {
  const limit = (typed: Typed | undefined) => (typed === 'none' ? null : typed);
  return {
    ratePerSecond: limit(rate),
    optOutsPerDay: limit(optOutsPerDay),
    grantsPerDay: limit(grantsPerDay),
    checksPerDay: limit(checksPerDay),
  };
}

const sayLimits = (key: ApiKey): string =>
  [
    [key.ratePerSecond, '/s'],
    [key.optOutsPerDay, ' opt-outs/day'],
    [key.grantsPerDay, ' grants/day'],
    [key.checksPerDay, ' checks/day'],
  ]
    .flatMap(([limit, of]) => (limit === undefined ? [] : [`${limit}${of}`]))
    .join(', ') || '-';

const SECONDS: Readonly<Record<string, number>> = { s: 1, m: 60, h: 3_600, d: 86_400 };
const OVERLAP_SECONDS_MAX = 90 * 86_400;

const toSeconds = (text: string): number => {
  const [, count, unit] = /^(\d{1,7})([smhd])$/.exec(text) ?? [];
  const seconds = Number(count) * SECONDS[unit ?? 's']!;
  if (seconds <= OVERLAP_SECONDS_MAX) return seconds;
  throw new InvalidArgumentError('Give a time such as 30m, 24h or 7d, at most 90d.');
};

export function addKeys(program: Command): void {
  const keys = program
    .command('keys')
    .description('API keys: make, list, rotate, limit, revoke; and the key ring');
  withLimits(ofInstallation(keys.command('create')), readCount(1))
    .description('Make a key. It is printed once and kept nowhere.')
    .requiredOption('--client <name>', 'who it is for; idempotency keys are shared within a client', toClient)
    .addOption(new Option('--scope <scope...>', 'what it may do').choices(KEY_SCOPES))
    .option('--store <name>', "a worker's key, bound to this store (scope acknowledgements:write)")
    .option(
      '--expires <when>',
      'a date (UTC), a time, or days from now such as 90d; without it the key does not expire',
      toExpiry,
    )
    .option('--json', 'print JSON')
    .action(
      async (
        options: Installation &
          Limits & {
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
            limits: toKeyLimits(options),
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
          ['ID', 'CLIENT', 'STORE', 'LAST USED', 'EXPIRES', 'STATE', 'LIMITS', 'SCOPES'],
          all.map((key) => [
            key.id,
            key.client,
            key.store ?? '-',
            key.lastUsedAt?.slice(0, 16) ?? 'never',
            key.expiresAt?.slice(0, 16) ?? '-',
            key.revokedAt !== undefined
              ? 'revoked'
              : (key.expiresAt ?? '9') < new Date().toISOString()
                ? 'expired'
                : 'valid',
            sayLimits(key),
            key.scopes.join(' '),
          ]),
        );
      });
    });
  ofInstallation(keys.command('rotate'))
    .description(
      'Make a key that replaces another one, with the same client, scopes, store, limits and lifetime. It is printed once, and kept in admin.key if the old one was; the old one stays valid for the overlap.',
    )
    .argument('<id>', 'the 12 characters after abide_live_')
    .addOption(
      new Option('--overlap <time>', 'how long the old key stays valid, such as 30m, 24h or 7d')
        .argParser(toSeconds)
        .default(SECONDS['d']!, '24h'),
    )
    .option('--json', 'print JSON')
    .action(async (id: string, options: Installation & { overlap: number; json?: boolean }) => {
      await onLedger(options, async (pool) => {
        const rotated = await rotateKey(pool, { id, overlapSeconds: options.overlap, caller: operator() });
        // Otherwise `KEY=$(abide keys rotate ID)` would take the words for a key.
        if (rotated === undefined) return sayNo(noKey(id), { json: true });
        const { key, token, oldExpiresAt, before } = rotated;
        if (options.json === true) printJson({ ...toJson(key), token, old_expires_at: oldExpiresAt });
        else {
          print(token);
          if (key.expiresAt !== undefined) process.stderr.write(`${key.id} expires at ${key.expiresAt}\n`);
          process.stderr.write(`${id} is valid until ${oldExpiresAt}\n`);
        }
        // The new key is printed by now, so that it is not lost if a file cannot be read or written.
        const { isKept, keepRotated } = await import('../processes/given-secrets.ts');
        const folder = dataFolderOf(environmentOf(options));
        for (const one of before)
          process.stderr.write(
            isKept(folder, one)
              ? `${one}, made by an earlier rotation, is the key that admin.key keeps\n`
              : `${one}, made by an earlier rotation, is still valid: \`abide keys revoke ${one}\` if nobody has it\n`,
          );
        const file = keepRotated(folder, id, token);
        if (file !== undefined) process.stderr.write(`${file} keeps the new key\n`);
      });
    });
  withLimits(ofInstallation(keys.command('limit')), (text) => (text === 'none' ? text : readCount(1)(text)))
    .description(
      'Change the limits of a key and of those that it was rotated from or into, within a second; `none` takes one away',
    )
    .argument('<id>', 'the 12 characters after abide_live_')
    .action(async (id: string, options: Installation & Limits) => {
      const limits = toKeyLimits(options);
      if (Object.values(limits).every((limit) => limit === undefined))
        throw new InvalidArgumentError('name at least one limit');
      await onLedger(options, async (pool) => {
        const key = await limitKey(pool, { id, limits, caller: operator() });
        if (key === undefined) return sayNo(noKey(id));
        print(`${id}: ${sayLimits(key)}`);
      });
    });
  ofInstallation(keys.command('revoke'))
    .description('Revoke a key: it is refused within a second')
    .argument('<id>', 'the 12 characters after abide_live_')
    .action(async (id: string, options: Installation) => {
      await onLedger(options, async (pool) => {
        if (await revokeKey(pool, id, operator())) return print(`revoked ${id}`);
        sayNo(`no key ${id}, or it is revoked already`);
      });
    });
  keys
    .command('ring')
    .description(
      'Print a new key ring for ABIDE_KEYS. Keep it: a database never starts with another ring than its own.',
    )
    .action(() => print(makeKeyRing().trim()));
  addRotation(keys, 'storage', {
    description:
      'Add a storage key to the key ring, which seals addresses from a time on; the old ones stay and open what they sealed. Replaces keys.json, or prints the new ABIDE_KEYS.',
    why: 'from then on it seals, and a process that lacks it cannot read what others sealed.',
  });
  addRotation(keys, 'signing', {
    description:
      'Add a signing key to the key ring, which signs receipts from a time on; the old ones stay, so that their receipts can be checked. Replaces keys.json, or prints the new ABIDE_KEYS.',
    why: 'from then on it signs. Publish the public keys again, for whoever checks receipts elsewhere.',
  });
  ofInstallation(keys.command('rotate-pepper'))
    .description(
      'Replace the pepper, by which people are found. Calls to every Abide that runs fail from then on, until it is started again with the new ring; none says "send". Replaces keys.json, or prints the new ABIDE_KEYS and changes nothing until it is given. If it is interrupted, type it again.',
    )
    .action(async (options: Installation) => {
      const interruption = untilInterrupted();
      try {
        const result = await replacePepper(options, interruption.signal);
        if ('ring' in result) {
          print(result.ring.trim());
          process.stderr.write(
            'Nothing is changed yet. Back up this ring, make it ABIDE_KEYS, and type the command again.\n',
          );
        } else sayReplaced(result.replaced, result.file);
      } catch (error) {
        if (!interruption.isThere()) throw error;
        process.stderr.write('Interrupted: type it again to finish. Nobody is lost meanwhile.\n');
      }
      interruption.pass();
    });
  keys
    .command('token')
    .description('Print a new key for ABIDE_ADMIN_KEY. No Abide knows it until it starts with it.')
    .action(() => print(makeToken()));
}

function addRotation(
  keys: Command,
  purpose: RotatedPurpose,
  { description, why }: { readonly description: string; readonly why: string },
): void {
  ofInstallation(keys.command(`rotate-${purpose}`))
    .description(description)
    .addOption(
      new Option('--after <time>', 'by when every API process is restarted, such as 0s, 30m or 24h')
        .argParser(toSeconds)
        .default(SECONDS['h']!, '1h'),
    )
    .action(async (options: Installation & { after: number }) => {
      const { rotateRing } = await import('../processes/running-database.ts');
      const useFrom = new Date(Date.now() + options.after * 1000).toISOString();
      const { id, ring, file } = await rotateRing(environmentOf(options), {
        purpose,
        useFrom,
        caller: operator(),
      });
      if (file === undefined) print(ring.trim());
      process.stderr.write(
        `${purpose} key ${id} ${file === undefined ? 'is in this ring: make it ABIDE_KEYS' : `is in ${file}`}. ` +
          `Back up the ring, and restart every API process before ${useFrom}: ${why}\n`,
      );
    });
}

async function replacePepper(options: Installation, signal: AbortSignal) {
  const { rotatePepper } = await import('../processes/running-database.ts');
  let done = 0;
  const pace = createPace();
  using _ = showProgress((width) => {
    const aSecond = pace(done, performance.now());
    return drawAmount(
      { what: 'looked at', done, total: undefined, say: String, unit: ' people', aSecond },
      width,
    );
  });
  const onSeen = (people: number): void => void (done = people);
  return await rotatePepper(environmentOf(options), { caller: operator(), onSeen, signal });
}

function sayReplaced(
  { keyId, isNew, moved, erased, unreadable }: PepperReplaced,
  file: string | undefined,
): void {
  print(`${moved} ${moved === 1 ? 'person is' : 'people are'} found by pepper key ${keyId} now`);
  if (erased > 0) print(`${erased} erased: found by the pepper of before, which stays in the ring for good`);
  if (unreadable > 0)
    print(
      `${unreadable} whose address cannot be opened: found by the pepper of before, which stays in the ring`,
    );
  if (!isNew) print('This finished an earlier replacement. To replace the pepper once more, type it again.');
  else
    print(
      `Back up ${file ?? 'ABIDE_KEYS'}, and start every Abide again with it: until then its calls fail. Workers have no ring.`,
    );
}

const noKey = (id: string): string => `no key ${id} is in use`;
