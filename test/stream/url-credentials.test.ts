import { expect, test } from '@jest/globals';
import { basicAuthorization, takeCredentials } from '../../stream/url-credentials.ts';

test('user and password go from the URL into the header, decoded', () => {
  const { address, credentials } = takeCredentials('https://ad%40a:p%3Aw%2F@registry:8081/apis/');

  expect(address.href).toBe('https://registry:8081/apis/');
  expect(credentials).toEqual({ username: 'ad@a', password: 'p:w/' });
  expect(basicAuthorization(credentials)).toEqual({ authorization: `Basic ${btoa('ad@a:p:w/')}` });
});

test.each(['http://registry:8081/', 'http://:alone@registry:8081/'])(
  '%s has no user, so no header',
  (url) => {
    const { address, credentials } = takeCredentials(url);

    expect(address.href).toBe('http://registry:8081/');
    expect(basicAuthorization(credentials)).toEqual({});
  },
);
