import { inspect } from 'node:util';
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { Address, KIND_OF_CHANNEL, mask, normalise } from '../../suppression/subject.ts';
import { SUBJECT_KINDS } from '../../suppression/subject-kind.ts';
import type { SubjectKind } from '../../suppression/subject-kind.ts';

const normal = (kind: SubjectKind, text: string, region?: string): string | undefined => {
  const result = normalise(kind, text, region);
  return result.ok ? result.value.reveal() : undefined;
};

describe('the normal form of an email address', () => {
  test.each([
    ['ada@example.com', 'ada@example.com'],
    [' Ada@Example.COM\n', 'ada@example.com'],
    ['ada.lovelace+news@example.com', 'ada.lovelace+news@example.com'],
    ['a.d.a@example.com', 'a.d.a@example.com'],
    ['ada@example.com.', 'ada@example.com'],
    ["o'hara!#$%&*/=?^_`{|}~-@example.com", "o'hara!#$%&*/=?^_`{|}~-@example.com"],
    ['ada@mail.example.co.uk', 'ada@mail.example.co.uk'],
    ['ada@my_host.example.com', 'ada@my_host.example.com'],
    ['ada@bücher.example', 'ada@xn--bcher-kva.example'],
    ['ada@BÜCHER.example', 'ada@xn--bcher-kva.example'],
    ['ada@bu\u0308cher.example', 'ada@xn--bcher-kva.example'],
    ['ada@xn--bcher-kva.example', 'ada@xn--bcher-kva.example'],
    ['ada@ｅｘａｍｐｌｅ．com', 'ada@example.com'],
    ['ada@bücher.example。', 'ada@xn--bcher-kva.example'],
    ['ada@straße.example', 'ada@xn--strae-oqa.example'],
    ['用户@例子.广告', '用户@xn--fsqu00a.xn--4rr70v'],
    ['E\u0301LODIE@example.com', 'élodie@example.com'],
  ])('%j is %j', (given, expected) => {
    expect(normal('email', given)).toBe(expected);
  });

  // Seen: j with a caron has no capital of its own, so the composed form appears only after the lower case. The same address, spelt
  // in capitals and in small letters, was two subjects.
  test('is composed after the lower case as well as before', () => {
    for (const [capital, small] of [
      ['J\u030c', '\u01f0'],
      ['H\u0331', '\u1e96'],
      ['T\u0308', '\u1e97'],
      ['W\u030a', '\u1e98'],
    ] as const)
      expect(normal('email', `${capital}ohn@example.com`)).toBe(normal('email', `${small}ohn@example.com`));
  });

  // Seen: in capitals this is νικοσ.παπ to toLowerCase(), which takes a dot for a part of the word. Who had opted out as he spells
  // himself was somebody else in capitals, and might be sent to.
  test.each([
    ['νικος.παπ@example.com', ['ΝΙΚΟΣ.ΠΑΠ@example.com', 'νικοσ.παπ@example.com', 'Νικοσ.Παπ@EXAMPLE.com']],
    ["σ.ο'σας+σ1@example.com", ["Σ.Ο'ΣΑΣ+Σ1@example.com", "ς.ο'σας+ς1@example.com"]],
    ['νικοσπαπ@example.com', ['ΝΙΚΟΣΠΑΠ@example.com', 'νικοςπαπ@example.com']],
    // In DNS these are two names.
    ['x@xn--uxachkp.gr', ['x@νικος.gr', 'X@XN--UXACHKP.GR']],
    ['x@xn--uxachku.gr', ['x@νικοσ.gr', 'X@ΝΙΚΟΣ.GR', 'X@XN--UXACHKU.GR']],
    // Found by reading: before a hyphen or a digit it ended a word.
    ['x@xn----zlbdf8cb2a.gr', ['x@οδοσ-αβ.gr', 'X@ΟΔΟΣ-ΑΒ.GR', 'X@XN----ZLBDF8CB2A.GR']],
  ])('has each sigma as people write it: %s', (usual, odd) => {
    for (const spelt of [usual, ...odd]) expect(normal('email', spelt)).toBe(usual);
  });

  test.each([
    '',
    'ada',
    '@example.com',
    'ada@',
    'ada@localhost',
    'ada@example',
    'ada@.com',
    'ada@example..com',
    'ada@-example.com',
    'ada@example-.com',
    'ada@127.0.0.1',
    'ada@[127.0.0.1]',
    'ada@１２７.0.0.1',
    'ada@exa mple.com',
    'ada lovelace@example.com',
    'ada@@example.com',
    'ada@home@example.com',
    '"ada"@example.com',
    'Ada <ada@example.com>',
    'ada@example.com, bob@example.com',
    'ada@example.com..',
    'a\u0000da@example.com',
    'a\u200bda@example.com',
    'a\u202eda@example.com',
    `${'x'.repeat(65)}@example.com`,
    `ada@${'x'.repeat(64)}.com`,
    `ada@${'x.'.repeat(130)}com`,
    `${'x'.repeat(64)}@${'x'.repeat(63)}.${'x'.repeat(63)}.${'x'.repeat(63)}.com`,
  ])('%j is none', (given) => {
    expect(normal('email', given)).toBeUndefined();
  });

  test('has no more marks on a letter than any script has', () => {
    const marked = (marks: number): string => `a${'\u0323\u0301'.repeat(marks / 2)}b@example.com`;
    expect(normal('email', marked(30))).toBe(marked(30).normalize('NFC'));
    expect(normal('email', marked(32))).toBeUndefined();
  });

  // Seen: a domain with a letter beyond ASCII was read like a host in a URL: up to the slash, and with percent signs decoded.
  // ada@bücher.example/x was recorded as ada@bücher.example, without a word to anybody.
  test.each(['/x', '?x', '#x', '\\x', ':80', '%2ecom', '\tx', '\u0000', '／x', '？x', '@x', ' x', ','])(
    'a domain is read whole or not at all: %j behind it is refused',
    (behind) => {
      expect(normal('email', `ada@bücher.example${behind}`)).toBeUndefined();
      expect(normal('email', `ada@bücher${behind}.example`)).toBeUndefined();
      expect(normal('email', `ada@example.com${behind}`)).toBeUndefined();
    },
  );
});

describe('the normal form of a phone number', () => {
  test.each([
    ['+442071838750', undefined, '+442071838750'],
    [' +44 (0)20 7183-8750 ', undefined, '+442071838750'],
    ['+44.20.7183.8750', undefined, '+442071838750'],
    ['+１ ２１２ ５５５ ０１２３', undefined, '+12125550123'],
    ['020 7183 8750', 'GB', '+442071838750'],
    ['(212) 555-0123', 'US', '+12125550123'],
    ['+39 02 1234 5678', 'US', '+390212345678'],
  ])('%j in %s is %s', (given, region, expected) => {
    expect(normal('phone', given, region)).toBe(expected);
  });

  test.each([
    ['020 7183 8750', undefined],
    ['', undefined],
    ['+', undefined],
    ['+44', undefined],
    ['+999123456789', undefined],
    ['+44 20 7183 8750 ext. 5', undefined],
    ['call +442071838750', undefined],
    ['+442071838750 or +442071838751', undefined],
    ['ada@example.com', 'GB'],
    ['+1'.repeat(40), undefined],
  ])('%j in %s is none', (given, region) => {
    expect(normal('phone', given, region)).toBeUndefined();
  });
});

describe('the normal form of a push token and of a person id', () => {
  test('is as given, trimmed: they are not ours to read', () => {
    expect(normal('push_token', ' fcm:AbC_1-2 ')).toBe('fcm:AbC_1-2');
    expect(normal('person_id', '\tPerson É 7\n')).toBe('Person É 7');
    expect(normal('person_id', 'E\u0301')).toBe('E\u0301');
  });

  test('is bounded, and has no control characters', () => {
    for (const [kind, longest] of [
      ['push_token', 4096],
      ['person_id', 256],
    ] as const) {
      expect(normal(kind, 'x'.repeat(longest))).toHaveLength(longest);
      for (const bad of ['x'.repeat(longest + 1), '', '  ', 'a\u0000b', 'a\nb', 'a\u0085b', '\ud800'])
        expect(normal(kind, bad)).toBeUndefined();
    }
  });
});

const anyText = fc.oneof(
  fc.string({ unit: 'grapheme' }),
  fc.string({ unit: 'binary' }),
  // What looks like an address in every script, with the characters that composition and case play with.
  fc
    .tuple(
      fc.string({
        unit: fc.constantFrom(...'aAjJhHtTwWyYıİσΣςßẞǅ\u030c\u0331\u0308\u030a\u0307\u0345é.+-_'),
        minLength: 1,
      }),
      fc.string({ unit: fc.constantFrom(...'aAzZ09-üÜßσΣ例İ．。.'), minLength: 1 }),
    )
    .map(([local, domain]) => `${local}@${domain}.com`),
  fc
    .string({ unit: fc.constantFrom(...'0123456789 -().'), minLength: 4, maxLength: 20 })
    .map((digits) => `+${digits}`),
);

test('a phone number with zeroes to spare has one normal form', () => {
  const once = normal('phone', '+320000000000');
  expect(once).toBeDefined();
  expect(normal('phone', once!)).toBe(once);
});

test.each(SUBJECT_KINDS)('bringing a %s into its normal form twice is the same as once', (kind) => {
  fc.assert(
    fc.property(anyText, fc.constantFrom(undefined, 'GB', 'US', 'IT', 'AR', 'MX'), (text, region) => {
      const once = normal(kind, text, region);
      if (once === undefined) return;
      expect(normal(kind, once, region)).toBe(once);
      expect(normal(kind, once)).toBe(once);
    }),
    { numRuns: 3_000 },
  );
});

test('an email address is the same person in any case and any composition', () => {
  fc.assert(
    fc.property(
      fc.emailAddress(),
      fc.constantFrom<'NFC' | 'NFD'>('NFC', 'NFD'),
      fc.boolean(),
      (address, form, isCapital) => {
        const spelt = (isCapital ? address.toUpperCase() : address).normalize(form);
        expect(normal('email', ` ${spelt} `)).toBe(normal('email', address));
      },
    ),
  );
});

// Of each other pair the capitals are another letter's as well (ß and ss, the dotless i, ligatures), and so may be another person's.
test('every letter is the same person in capitals, wherever it stands', () => {
  const isOneOfTwo = (letter: string): boolean =>
    letter !== 'ς' && letter.toUpperCase().toLowerCase() !== letter.toLowerCase();
  const letters = Array.from({ length: 0x11_0000 }, (_, code) => code)
    .filter((code) => code < 0xd800 || code > 0xdfff)
    .map((code) => String.fromCodePoint(code))
    .filter((letter) => letter.toUpperCase() !== letter && !isOneOfTwo(letter));
  expect(letters.length).toBeGreaterThan(1_300);
  const differing = letters
    .flatMap((letter) => [letter, `a${letter}b`, `a${letter}`, `a${letter}.b`, `a${letter}'b`, `${letter}.b`])
    .map((local) => `${local}@example.com`)
    .filter((address) => normal('email', address.toUpperCase()) !== normal('email', address));
  expect(differing).toEqual([]);
});

test('what is refused is never repeated in the reason', () => {
  fc.assert(
    fc.property(
      fc.constantFrom(...SUBJECT_KINDS),
      fc.string({ unit: 'grapheme', minLength: 8 }),
      (kind, text) => {
        const result = normalise(kind, text);
        if (!result.ok) expect(result.detail).not.toContain(text);
      },
    ),
  );
});

test('an address prints as [redacted] wherever it goes, and only reveal() gives it away', () => {
  const address = new Address('ada@example.com');
  const holder = { deep: [{ address }] };
  const prints = [
    String(address),
    JSON.stringify(holder),
    inspect(holder, { depth: 9, showHidden: true }),
    JSON.stringify(Object.getOwnPropertyNames(address)),
    JSON.stringify(structuredClone(holder)),
    inspect(new Error('x', { cause: address })),
  ];
  for (const print of prints) expect(print).not.toContain('ada');
  expect(address.reveal()).toBe('ada@example.com');
});

describe('a mask', () => {
  const masked = (kind: SubjectKind, value: string) => mask({ kind, value: new Address(value) });

  test.each([
    ['email', 'ada@example.com', 'a••@e••.com'],
    ['email', 'ada@mail.example.co.uk', 'a••@m••.uk'],
    ['email', '🙂da@xn--bcher-kva.example', '🙂••@x••.example'],
    ['phone', '+442071838750', '+44••50'],
    ['push_token', 'fcm:AbC', 'f••'],
    ['person_id', '🙂7', '🙂••'],
  ] as const)('of %s %s is %s', (kind, value, expected) => {
    expect(masked(kind, value)).toBe(expected);
  });

  test('never has the local part in it, nor the domain’s name, nor more of a number than its ends', () => {
    const word = fc.string({
      unit: fc.constantFrom(...'abcdefghijklmnopqrstuvwxyz0123456789'),
      minLength: 2,
      maxLength: 20,
    });
    fc.assert(
      fc.property(word, word, (local, domain) => {
        const [who, where] = masked('email', `${local}@${domain}.com`).split('@');
        expect(who).not.toContain(local);
        // Seen: a domain called "om" is contained in its own ending.
        expect(where!.replace(/\.com$/, '')).not.toContain(domain);
      }),
    );
    fc.assert(
      fc.property(fc.stringMatching(/^\+[1-9]\d{7,14}$/), (number) => {
        expect([...masked('phone', number)].filter((digit) => /\d/.test(digit))).toHaveLength(4);
      }),
    );
    fc.assert(
      fc.property(word, (token) => {
        expect(masked('push_token', token)).toHaveLength(3);
        expect(masked('person_id', token)).toHaveLength(3);
      }),
    );
  });
});

test('each channel is reached by one kind of identifier', () => {
  expect(KIND_OF_CHANNEL).toEqual({ email: 'email', sms: 'phone', push: 'push_token' });
});
