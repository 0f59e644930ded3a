// The bridge on Azure Container Apps, with its scheduler and its Service Bus. Not compiled by Bicep and not deployed: `make deploy-check`
// parses it, and compares each resource with the types of its API version.
//
//   az group create --name shop --location westeurope
//   az deployment group create --resource-group shop --template-file main.bicep --parameters image=registry.example/shop@sha256:...

@description('Prefix of all names.')
@minLength(3)
@maxLength(20)
param name string = 'shop'
param location string = resourceGroup().location

@description('Image with your workflows, by its digest.')
param image string

@description('Name of an Azure Container Registry of this resource group that has the image; empty for a public one.')
param registry string = ''

@description('One app that consumes and runs the workflows, or two that scale apart.')
@allowed(['all', 'split'])
param roles string = 'split'

@description('Most replicas of each app.')
@minValue(1)
param maxReplicas int = 8

@description('Activities on which one replica works at once: `worker.threads` of the engine.')
param threads int = 16

@description('Waiting messages for which one replica more is started.')
param messagesPerReplica int = 500

@description('Queues of the sources. A session belongs to one replica at a time.')
param sourceQueues array = [
  { name: 'orders', sessions: true }
]

@description('Subscriptions of the sources.')
param sourceSubscriptions array = [
  { topic: 'shipments', name: 'bridge', sessions: false }
]

@description('Queues of the targets.')
param targetQueues array = [
  { name: 'results', sessions: false }
]

@allowed(['Consumption', 'Dedicated'])
param schedulerSku string = 'Dedicated'

@description('Addresses that reach the scheduler; an empty list denies all.')
param schedulerAddresses array = ['0.0.0.0/0']

var grace = 35
var port = 8099
var state = '/var/lib/bridge'
var config = '/etc/durable-bridge'

// Azure's ids of its roles, the same everywhere
var durableTaskDataContributor = subscriptionResourceId('Microsoft.Authorization/roleDefinitions', '0ad04412-c4d5-4796-b79c-f76d14c8d402')
var serviceBusDataReceiver = subscriptionResourceId('Microsoft.Authorization/roleDefinitions', '4f6d3b9b-027b-4f4c-9142-0e5a2a2247e0')
var serviceBusDataSender = subscriptionResourceId('Microsoft.Authorization/roleDefinitions', '69a216fc-b8fb-44d8-bc22-1f3c2cd27a39')
var serviceBusDataOwner = subscriptionResourceId('Microsoft.Authorization/roleDefinitions', '090c5cfd-751d-490a-894a-3ce6f1109419')
var registryPull = subscriptionResourceId('Microsoft.Authorization/roleDefinitions', '7f951dda-4ed3-4680-a7ca-43fe172d538d')

// Of the bridge itself
resource bridge 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' = {
  name: '${name}-bridge'
  location: location
}

// Of the platform, which pulls images and counts work. The containers cannot use it: counting messages needs the right to manage them
resource platform 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' = {
  name: '${name}-platform'
  location: location
}

resource scheduler 'Microsoft.DurableTask/schedulers@2026-02-01' = {
  name: '${name}-scheduler'
  location: location
  properties: {
    sku: schedulerSku == 'Dedicated' ? { name: 'Dedicated', capacity: 1 } : { name: 'Consumption' }
    ipAllowlist: schedulerAddresses
  }
}

resource taskHub 'Microsoft.DurableTask/schedulers/taskHubs@2026-02-01' = {
  parent: scheduler
  name: name
}

resource work 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(taskHub.id, bridge.id, durableTaskDataContributor)
  scope: taskHub
  properties: {
    roleDefinitionId: durableTaskDataContributor
    principalId: bridge.properties.principalId
    principalType: 'ServicePrincipal'
  }
}

resource countWork 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(taskHub.id, platform.id, durableTaskDataContributor)
  scope: taskHub
  properties: {
    roleDefinitionId: durableTaskDataContributor
    principalId: platform.properties.principalId
    principalType: 'ServicePrincipal'
  }
}

resource bus 'Microsoft.ServiceBus/namespaces@2024-01-01' = {
  name: '${name}-bus-${uniqueString(resourceGroup().id)}'
  location: location
  sku: { name: 'Standard', tier: 'Standard' }
  properties: {
    disableLocalAuth: true
    minimumTlsVersion: '1.2'
  }
}

resource sources 'Microsoft.ServiceBus/namespaces/queues@2024-01-01' = [for each in sourceQueues: {
  parent: bus
  name: each.name
  properties: {
    requiresSession: each.sessions
    lockDuration: 'PT1M'
    maxDeliveryCount: 10
    deadLetteringOnMessageExpiration: true
  }
}]

resource targets 'Microsoft.ServiceBus/namespaces/queues@2024-01-01' = [for each in targetQueues: {
  parent: bus
  name: each.name
  properties: {
    requiresSession: each.sessions
    deadLetteringOnMessageExpiration: true
  }
}]

resource topics 'Microsoft.ServiceBus/namespaces/topics@2024-01-01' = [for each in sourceSubscriptions: {
  parent: bus
  name: each.topic
  properties: {}
}]

resource subscriptions 'Microsoft.ServiceBus/namespaces/topics/subscriptions@2024-01-01' = [for (each, at) in sourceSubscriptions: {
  parent: topics[at]
  name: each.name
  properties: {
    requiresSession: each.sessions
    lockDuration: 'PT1M'
    maxDeliveryCount: 10
    deadLetteringOnMessageExpiration: true
    deadLetteringOnFilterEvaluationExceptions: true
  }
}]

resource receiveFromQueues 'Microsoft.Authorization/roleAssignments@2022-04-01' = [for (each, at) in sourceQueues: {
  name: guid(sources[at].id, bridge.id, serviceBusDataReceiver)
  scope: sources[at]
  properties: {
    roleDefinitionId: serviceBusDataReceiver
    principalId: bridge.properties.principalId
    principalType: 'ServicePrincipal'
  }
}]

resource receiveFromSubscriptions 'Microsoft.Authorization/roleAssignments@2022-04-01' = [for (each, at) in sourceSubscriptions: {
  name: guid(subscriptions[at].id, bridge.id, serviceBusDataReceiver)
  scope: subscriptions[at]
  properties: {
    roleDefinitionId: serviceBusDataReceiver
    principalId: bridge.properties.principalId
    principalType: 'ServicePrincipal'
  }
}]

resource sendToTargets 'Microsoft.Authorization/roleAssignments@2022-04-01' = [for (each, at) in targetQueues: {
  name: guid(targets[at].id, bridge.id, serviceBusDataSender)
  scope: targets[at]
  properties: {
    roleDefinitionId: serviceBusDataSender
    principalId: bridge.properties.principalId
    principalType: 'ServicePrincipal'
  }
}]

resource countMessages 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(bus.id, platform.id, serviceBusDataOwner)
  scope: bus
  properties: {
    roleDefinitionId: serviceBusDataOwner
    principalId: platform.properties.principalId
    principalType: 'ServicePrincipal'
  }
}

resource images 'Microsoft.ContainerRegistry/registries@2023-07-01' existing = if (registry != '') {
  name: registry
}

resource pull 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (registry != '') {
  name: guid(resourceGroup().id, registry, platform.id, registryPull)
  scope: images
  properties: {
    roleDefinitionId: registryPull
    principalId: platform.properties.principalId
    principalType: 'ServicePrincipal'
  }
}

resource logs 'Microsoft.OperationalInsights/workspaces@2025-07-01' = {
  name: '${name}-logs'
  location: location
  properties: {
    sku: { name: 'PerGB2018' }
    retentionInDays: 30
  }
}

resource environment 'Microsoft.App/managedEnvironments@2025-07-01' = {
  name: '${name}-environment'
  location: location
  properties: {
    appLogsConfiguration: {
      destination: 'log-analytics'
      logAnalyticsConfiguration: {
        customerId: logs.properties.customerId
        sharedKey: logs.listKeys().primarySharedKey
      }
    }
  }
}

var queueRules = [for each in sourceQueues: {
  name: 'queue-${each.name}'
  custom: {
    type: 'azure-servicebus'
    identity: platform.id
    metadata: {
      namespace: bus.name
      queueName: each.name
      messageCount: string(messagesPerReplica)
    }
  }
}]
var subscriptionRules = [for each in sourceSubscriptions: {
  name: 'subscription-${each.topic}'
  custom: {
    type: 'azure-servicebus'
    identity: platform.id
    metadata: {
      namespace: bus.name
      topicName: each.topic
      subscriptionName: each.name
      messageCount: string(messagesPerReplica)
    }
  }
}]
var workRules = [
  {
    name: 'activities'
    custom: {
      type: 'azure-durabletask-scheduler'
      identity: platform.id
      metadata: {
        endpoint: scheduler.properties.endpoint
        taskhubName: taskHub.name
        workItemType: 'Activity'
        maxConcurrentWorkItemsCount: string(threads)
      }
    }
  }
  {
    name: 'orchestrations'
    custom: {
      type: 'azure-durabletask-scheduler'
      identity: platform.id
      metadata: {
        endpoint: scheduler.properties.endpoint
        taskhubName: taskHub.name
        workItemType: 'Orchestration'
        maxConcurrentWorkItemsCount: '100'
      }
    }
  }
]
var messageRules = concat(queueRules, subscriptionRules)

// A loop takes only what is known at the start of a deployment, so not the rules themselves
var apps = roles == 'all' ? [
  { role: 'all', args: ['serve'], messages: true, work: true }
] : [
  { role: 'intake', args: ['serve', '--no-worker'], messages: true, work: false }
  { role: 'worker', args: ['worker'], messages: false, work: true }
]

// Never zero replicas: early messages, quarantined keys and replays wait for a running bridge, and no rule counts them
resource app 'Microsoft.App/containerApps@2025-07-01' = [for each in apps: {
  name: '${name}-${each.role}'
  location: location
  dependsOn: [work, countWork, receiveFromQueues, receiveFromSubscriptions, sendToTargets, countMessages, pull]
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: {
      '${bridge.id}': {}
      '${platform.id}': {}
    }
  }
  properties: {
    environmentId: environment.id
    configuration: {
      activeRevisionsMode: 'Single'
      identitySettings: [
        { identity: bridge.id, lifecycle: 'Main' }
        { identity: platform.id, lifecycle: 'None' }
      ]
      registries: registry == '' ? [] : [
        { server: '${registry}.azurecr.io', identity: platform.id }
      ]
      secrets: [
        { name: 'bridge', value: loadTextContent('bridge.yaml') }
        { name: 'container-apps', value: loadTextContent('container-apps.yaml') }
      ]
    }
    template: {
      terminationGracePeriodSeconds: grace
      containers: [
        {
          name: 'bridge'
          image: image
          args: concat(each.args, ['--config', '${config}/bridge.yaml', '--overlay', '${config}/container-apps.yaml'])
          env: [
            { name: 'AZURE_CLIENT_ID', value: bridge.properties.clientId }
            { name: 'ENDPOINT', value: scheduler.properties.endpoint }
            { name: 'TASKHUB', value: taskHub.name }
            { name: 'SERVICEBUS_NAMESPACE', value: bus.name }
          ]
          resources: { cpu: json('0.5'), memory: '1Gi' }
          // The platform calls by the address of the replica, which is no name of the port
          probes: [
            {
              type: 'Startup'
              httpGet: { path: '/startupz', port: port, httpHeaders: [{ name: 'Host', value: 'localhost' }] }
              periodSeconds: 60
              failureThreshold: 10
            }
            {
              type: 'Liveness'
              httpGet: { path: '/healthz', port: port, httpHeaders: [{ name: 'Host', value: 'localhost' }] }
              periodSeconds: 10
              timeoutSeconds: 5
              failureThreshold: 3
            }
            {
              type: 'Readiness'
              httpGet: { path: '/readyz', port: port, httpHeaders: [{ name: 'Host', value: 'localhost' }] }
              periodSeconds: 5
              timeoutSeconds: 5
            }
          ]
          volumeMounts: [
            { volumeName: 'config', mountPath: config }
            { volumeName: 'state', mountPath: state }
          ]
        }
      ]
      volumes: [
        {
          name: 'config'
          storageType: 'Secret'
          secrets: [
            { secretRef: 'bridge', path: 'bridge.yaml' }
            { secretRef: 'container-apps', path: 'container-apps.yaml' }
          ]
        }
        { name: 'state', storageType: 'EmptyDir' }
      ]
      scale: {
        minReplicas: 1
        maxReplicas: maxReplicas
        rules: concat(each.messages ? messageRules : [], each.work ? workRules : [])
      }
    }
  }
}]

output endpoint string = scheduler.properties.endpoint
output serviceBus string = bus.properties.serviceBusEndpoint
output identity string = bridge.properties.clientId
