"""What agents hold, read and ask for: leases of tasks, acknowledged messages, approvals; the roles get their rights to them."""

from importlib import import_module

import django.db.models.deletion
from django.db import migrations, models


make_roles = import_module("workflow.migrations.0003_roles").make_roles


class Migration(migrations.Migration):

    dependencies = [
        ('workflow', '0005_execution_open'),
    ]

    operations = [
        migrations.CreateModel(
            name='Approval',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('task_id', models.CharField(blank=True, max_length=96)),
                ('action', models.CharField(max_length=128)),
                ('arguments', models.JSONField(default=dict)),
                ('digest', models.CharField(max_length=64)),
                ('reason', models.TextField(blank=True)),
                ('requested_by', models.CharField(max_length=128)),
                ('requested_at', models.DateTimeField()),
                ('expires_at', models.DateTimeField()),
                ('frozen_at', models.DateTimeField(null=True)),
                ('status', models.CharField(choices=[('pending', 'Pending'), ('approved', 'Approved'), ('denied', 'Denied'), ('expired', 'Expired'), ('used', 'Used')], default='pending', max_length=10)),
                ('decided_by', models.CharField(blank=True, max_length=128)),
                ('decided_at', models.DateTimeField(null=True)),
                ('decision_reason', models.TextField(blank=True)),
                ('used_at', models.DateTimeField(null=True)),
            ],
        ),
        migrations.AddField(
            model_name='inboxmessage',
            name='acked_at',
            field=models.DateTimeField(null=True),
        ),
        migrations.AddField(
            model_name='novastate',
            name='agent_completed',
            field=models.BigIntegerField(default=0),
        ),
        migrations.AddField(
            model_name='novastate',
            name='agent_level',
            field=models.PositiveSmallIntegerField(default=0),
        ),
        migrations.AddField(
            model_name='task',
            name='claimed_open',
            field=models.BooleanField(null=True),
        ),
        migrations.AddIndex(
            model_name='inboxmessage',
            index=models.Index(condition=models.Q(('acked_at', None), ('kind', 'signal'), models.Q(('nova_id', ''), _negated=True)), fields=['nova_id', 'id'], name='inbox_unread'),
        ),
        migrations.AddIndex(
            model_name='task',
            index=models.Index(condition=models.Q(('claimed_open__isnull', False), ('status', 'in_progress')), fields=['id'], name='task_agent_held'),
        ),
        migrations.AddField(
            model_name='approval',
            name='nova',
            field=models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='approvals', to='workflow.nova'),
        ),
        migrations.AddIndex(
            model_name='approval',
            index=models.Index(condition=models.Q(('status__in', ['pending', 'approved'])), fields=['expires_at'], name='approval_open'),
        ),
        migrations.AddConstraint(
            model_name='approval',
            constraint=models.CheckConstraint(condition=models.Q(('status__in', ['pending', 'approved', 'denied', 'expired', 'used'])), name='approval_status'),
        ),
        migrations.AddConstraint(
            model_name='approval',
            constraint=models.UniqueConstraint(condition=models.Q(('status__in', ['pending', 'approved'])), fields=('nova', 'digest'), name='approval_one_open'),
        ),
        migrations.RunPython(make_roles, migrations.RunPython.noop),
    ]
