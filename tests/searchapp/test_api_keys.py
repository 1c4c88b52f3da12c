"""API keys: shown once, kept as a hash, refused the moment they or their owner are no longer good."""

import hashlib
import json
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.test import Client

from searchapp.exceptions import InvalidInput
from searchapp.models import ApiKey, Category, Job
from searchapp.services import api_keys
from tests.searchapp.api_cast import error_of, user_make

pytestmark = [pytest.mark.django_db, pytest.mark.database]


def test_the_command_prints_the_key_once_and_keeps_only_its_hash() -> None:
    user_make("sam", is_staff=True)
    out = StringIO()

    call_command("create_api_key", "sam", "--name", "till", "--json", stdout=out)

    printed = json.loads(out.getvalue())
    row = ApiKey.objects.get()
    assert printed == {"key": printed["key"], "prefix": row.prefix, "name": "till", "user": "sam"}
    assert printed["key"].startswith(f"per_{row.prefix}_")
    assert len(printed["key"]) == 4 + 8 + 1 + 43
    assert row.key_sha256 == hashlib.sha256(printed["key"].encode()).hexdigest()
    columns = " ".join(str(value) for value in ApiKey.objects.values_list()[0])
    assert printed["key"].rpartition("_")[2] not in columns


def test_the_plain_form_prints_the_key_alone_to_standard_output() -> None:
    user_make("sam")
    out, err = StringIO(), StringIO()

    call_command("create_api_key", "sam", stdout=out, stderr=err)

    assert api_keys.key_find(key=out.getvalue().strip()) == ApiKey.objects.get()
    assert "not shown again" in err.getvalue()


def test_a_key_for_nobody_or_somebody_inactive_is_refused() -> None:
    gone = user_make("gone", is_active=False)
    with pytest.raises(CommandError, match="there is no user 'nobody'"):
        call_command("create_api_key", "nobody")
    with pytest.raises(InvalidInput):
        api_keys.key_create(user=gone, name="x")
    with pytest.raises(InvalidInput):
        api_keys.key_create(user=user_make("sam"), name="")
    assert ApiKey.objects.count() == 0


def test_a_key_acts_with_its_owner_s_rights_until_it_or_the_owner_is_stopped() -> None:
    sam = user_make("sam", is_staff=True)
    row, key = api_keys.key_create(user=sam, name="till")
    client = Client(headers={"Authorization": f"Key {key}"})
    Category.objects.create(name="Fruit", slug="fruit", path="Fruit")
    job = Job.objects.create(kind="import_catalogue")
    address = f"/api/v1/jobs/{job.pk}"
    assert client.get(address).status_code == 200

    sam.is_active = False
    sam.save(update_fields=["is_active"])
    assert error_of(client.get(address), 401)["code"] == "not_authenticated"
    sam.is_active = True
    sam.save(update_fields=["is_active"])
    assert client.get(address).status_code == 200

    api_keys.key_revoke(api_key=row)
    assert error_of(client.get(address), 401)["code"] == "not_authenticated"
    row.refresh_from_db()
    first = row.revoked_at
    api_keys.key_revoke(api_key=row)
    row.refresh_from_db()
    assert row.revoked_at == first


def test_a_part_of_a_key_or_its_hash_is_not_the_key() -> None:
    row, key = api_keys.key_create(user=user_make("sam"), name="till")

    for wrong in (key[:-1], key + "x", row.prefix, row.key_sha256, "", key.upper()):
        assert api_keys.key_find(key=wrong) is None
