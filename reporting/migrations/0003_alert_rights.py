"""The roles get their rights to alerts."""

from importlib import import_module

from django.db import migrations


def make_roles(apps, schema_editor):
    import_module("workflow.migrations.0003_roles").make_roles(apps, schema_editor)


class Migration(migrations.Migration):
    dependencies = [
        ("reporting", "0002_alerts"),
        ("workflow", "0008_hear_and_write"),
    ]

    operations = [migrations.RunPython(make_roles, migrations.RunPython.noop)]
