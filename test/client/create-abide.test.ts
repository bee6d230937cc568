// What is wrong before anything is sent.
import { expect, test } from '@jest/globals';
import type { AbideOptions } from 'abide/client';
import { createAbide } from 'abide/client';

test.each(['nonsense', '127.0.0.1:8390', 'localhost:8080', ''])('%j is no URL of an API', (url) => {
  expect(() => createAbide({ url, key: 'a-key' })).toThrow(expect.objectContaining({ name: 'TypeError' }));
});

// Without either, the first call ended with "token is not a function".
test('without a key and a token there is no client', () => {
  const options = { url: 'http://127.0.0.1:8080', key: undefined } as unknown as AbideOptions;
  expect(() => createAbide(options)).toThrow(new TypeError('Give a key or a token.'));
});
