import { describe, expect, it } from 'vitest';
import { RealtimeError, decodeToken, getTokenExpiresIn, isTokenExpired, shouldRefreshToken } from '../src/index';
import { inSeconds, makeToken } from './support';

describe('decodeToken', () => {
  it('reads claims and the key id of the header', () => {
    const token = makeToken({ sub: 'user_1', aud: 'app_1', permissions: ['subscribe'] }, { alg: 'HS256', kid: 'key_1' });
    expect(decodeToken(token)).toEqual({ sub: 'user_1', aud: 'app_1', permissions: ['subscribe'], kid: 'key_1' });
  });

  it('reads text outside ASCII and the URL-safe alphabet', () => {
    const token = makeToken({ sub: 'Zoë 東京 ???>>>~~~ÿÿ' });
    expect(token).toMatch(/[-_]/);
    expect(decodeToken(token).sub).toBe('Zoë 東京 ???>>>~~~ÿÿ');
  });

  it.each(['', 'abc', 'a.b', 'a.b.c.d', '!!.!!.!!', `${btoa('[]')}.${btoa('{}')}.x`, `${btoa('{}')}.${btoa('1')}.x`])(
    'refuses %j',
    (text) => {
      expect(() => decodeToken(text)).toThrowError(RealtimeError);
      expect(() => decodeToken(text)).toThrowError(expect.objectContaining({ code: 'INVALID_TOKEN' }) as Error);
    },
  );
});

describe('expiry', () => {
  it('is counted in milliseconds from now', () => {
    const left = getTokenExpiresIn(makeToken({ exp: inSeconds(120) }));
    expect(left).toBeGreaterThan(118_000);
    expect(left).toBeLessThanOrEqual(120_000);
    expect(isTokenExpired(makeToken({ exp: inSeconds(120) }))).toBe(false);
  });

  it('is 0 once it is over', () => {
    const token = makeToken({ exp: inSeconds(-5) });
    expect(getTokenExpiresIn(token)).toBe(0);
    expect(isTokenExpired(token)).toBe(true);
    expect(shouldRefreshToken(token)).toBe(true);
  });

  it('never comes without exp', () => {
    const token = makeToken({ sub: 'x' });
    expect(getTokenExpiresIn(token)).toBe(Infinity);
    expect(isTokenExpired(token)).toBe(false);
    expect(shouldRefreshToken(token)).toBe(false);
  });

  it('counts as over for what cannot be read', () => {
    expect(isTokenExpired('nonsense')).toBe(true);
    expect(getTokenExpiresIn(makeToken({ exp: 'soon' }))).toBe(0);
    expect(shouldRefreshToken('nonsense')).toBe(true);
  });
});

describe('shouldRefreshToken', () => {
  it('is due within 60 s unless told otherwise', () => {
    expect(shouldRefreshToken(makeToken({ exp: inSeconds(50) }))).toBe(true);
    expect(shouldRefreshToken(makeToken({ exp: inSeconds(70) }))).toBe(false);
    expect(shouldRefreshToken(makeToken({ exp: inSeconds(70) }), 90_000)).toBe(true);
    expect(shouldRefreshToken(makeToken({ exp: inSeconds(50) }), 30_000)).toBe(false);
  });
});
