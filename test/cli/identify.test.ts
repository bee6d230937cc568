// `abide check 0041791234567 --channel sms` took the number for a person id that nobody knows, and answered "may be sent".
import { InvalidArgumentError } from 'commander';
import { expect, test } from '@jest/globals';
import { identify } from '../../cli/identify.ts';

test.each([
  ['ada@example.com', 'email', 'ada@example.com'],
  [' ADA@example.com ', 'email', 'ADA@example.com'],
  ['+41 79 123 45 67', 'phone', '+41 79 123 45 67'],
  [' +41791234567', 'phone', '+41791234567'],
  ['phone:0041791234567', 'phone', '0041791234567'],
  ['push_token:abc:def@ghi', 'push_token', 'abc:def@ghi'],
  ['person_id:4711', 'person_id', '4711'],
  ['person_id:', 'person_id', ''],
])('%j is of the kind %s', (text, kind, value) => {
  expect(identify(text)).toEqual([kind, value]);
});

test.each([
  '0041791234567',
  '41791234567',
  '4711',
  'tel:+41791234567',
  'notanaddress',
  'person:4711',
  'person:',
  'push:abc',
  'PERSON_ID:4711',
  ':4711',
  '',
  ' ',
])('who is meant by %j is asked for, not guessed', (text) => {
  expect(() => identify(text)).toThrow(InvalidArgumentError);
  expect(() => identify(text)).toThrow('such as person_id:4711');
});
